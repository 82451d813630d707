/*
 * Saves the notebook a check was started in, and tells the kernel which file that is; and shows the server's notices.
 *
 * labkit puts a request id into the `transient` part of its "checking …" output. The page that ran the cell (its client
 * id is in the message's parent header) saves exactly that notebook, whatever tab is in front and however many browser
 * windows show it, and reports over a comm: "saving", then "saved" or "failed". The comm is opened from here because
 * JupyterLab then sends it over a kernel subshell, which works while the cell is still running.
 *
 * Notices (labkit/notices.py) are asked for every half minute as long as the page can be seen, and at once when it
 * comes into sight again. JupyterLab shows them, as text, until they are withdrawn or over.
 *
 * This file is a module-federation container written by hand: it needs no bundler and no build step.
 */
(() => {
  const TARGET = 'gradlab.saved';
  const NOTICES_MS = 30_000;
  const COMPLETE = 140; // JupyterLab cuts longer notifications off, in its list as well
  const comms = new WeakMap();
  let scope;

  async function shared(name) {
    const [build] = Object.values(scope[name]);
    return (await build.get())();
  }

  /** Whether this page's copy of the notebook, or a console of this page on the same kernel, ran the cell. */
  function ranHere(app, tracker, panel, client) {
    const runs = widget => widget.sessionContext?.session?.kernel?.clientId === client;
    if (runs(panel)) {
      return true;
    }
    let other = false;
    tracker.forEach(notebook => {
      other ||= runs(notebook);
    });
    return !other && [...app.shell.widgets('main'), ...app.shell.widgets('down')].some(runs);
  }

  function serverRoot() {
    return JSON.parse(document.getElementById('jupyter-config-data')?.textContent ?? '{}').serverRoot ?? '';
  }

  /** The open comm to this kernel: one for all requests, since closing it would end its subshell under our messages. */
  function channel(kernel) {
    if (!comms.has(kernel) || comms.get(kernel).comm.isDisposed) {
      const comm = kernel.createComm(TARGET);
      const ready = (kernel.supportsSubshells ? comm.subshellStarted : Promise.resolve()).then(() => {
        comm.open();
      });
      comms.set(kernel, { comm, ready });
    }
    return comms.get(kernel);
  }

  async function save(panel, request) {
    const { context } = panel;
    const { comm, ready } = channel(panel.sessionContext.session.kernel);
    const tell = async (state, reason = '') => {
      await ready;
      comm.send({ request, state, reason, path: context.path, root: serverRoot() });
    };
    const saving = tell('saving');
    try {
      if (context.contentsModel?.writable === false) {
        throw new Error('the file is read-only');
      }
      await context.save();
    } catch (error) {
      await saving;
      return tell('failed', String(error?.message ?? error));
    }
    await saving;
    return tell('saved');
  }

  function activate(app, tracker) {
    const seen = new Set();
    const watch = panel =>
      panel.sessionContext.iopubMessage.connect((_, message) => {
        const request = message.content.transient?.gradlab_save;
        const client = message.parent_header.session;
        // A notebook shown twice in one page is one document: the first view saves it.
        if (!request || seen.has(request) || !ranHere(app, tracker, panel, client)) {
          return;
        }
        seen.add(request);
        save(panel, request).catch(error => console.warn('gradlab: no answer to the kernel', error));
      });
    tracker.forEach(watch);
    tracker.widgetAdded.connect((_, panel) => watch(panel));
  }

  /** The words of a notice, with its time: what it says of minutes counts from then. */
  function wording({ at, text }) {
    return `${new Date(at * 1000).toLocaleTimeString([], { timeStyle: 'short' })} · ${text}`;
  }

  /** Returns what shows a list of notices: new ones appear, changed ones change, and those it lacks are dismissed. */
  function display({ Dialog, Notification, showDialog }) {
    const shown = new Map();

    function options(message) {
      const callback = event => {
        event.preventDefault(); // or the notification would be dismissed
        showDialog({ title: 'Notice', body: message, buttons: [Dialog.okButton()] });
      };
      const actions = message.length > COMPLETE ? [{ label: 'Read all', callback }] : [];
      return { autoClose: false, actions };
    }

    function show(key, message) {
      const known = shown.get(key);
      // What was closed stays closed until it says something else.
      if (known?.message === message) {
        return;
      }
      const updated = known && Notification.update({ id: known.id, message, ...options(message) });
      const id = updated ? known.id : Notification.emit(message, 'warning', options(message));
      shown.set(key, { id, message });
    }

    return notices => {
      const current = new Set(notices.map(notice => notice.key));
      for (const [key, { id }] of shown) {
        if (!current.has(key)) {
          Notification.dismiss(id);
          shown.delete(key);
        }
      }
      notices.forEach(notice => show(notice.key, wording(notice)));
    };
  }

  async function watchNotices(app) {
    const { Poll } = await shared('@lumino/polling');
    const { ServerConnection } = await shared('@jupyterlab/services');
    const show = display(await shared('@jupyterlab/apputils'));
    const { serverSettings } = app.serviceManager;
    const ask = async () => {
      const url = `${serverSettings.baseUrl}labkit/notices`;
      const response = await ServerConnection.makeRequest(url, {}, serverSettings);
      if (!response.ok) {
        throw new ServerConnection.ResponseError(response);
      }
      show(await response.json());
    };
    const frequency = { interval: NOTICES_MS, backoff: true, max: 10 * NOTICES_MS };
    const poll = new Poll({ name: 'gradlab:notices', factory: ask, frequency, standby: 'when-hidden' });
    document.addEventListener('visibilitychange', () => document.hidden || poll.refresh());
  }

  /** Whatever the notices need and a later JupyterLab lacks, notebooks are saved all the same. */
  function activateNotices(app) {
    app.restored
      .then(() => watchNotices(app))
      .catch(error => console.warn('gradlab: notices are not shown', error));
  }

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB.gradlab = {
    init: shareScope => {
      scope = shareScope;
    },
    get: async () => {
      const { INotebookTracker } = await shared('@jupyterlab/notebook');
      const save = { id: 'gradlab:save', autoStart: true, requires: [INotebookTracker], activate };
      const notices = { id: 'gradlab:notices', autoStart: true, activate: activateNotices };
      return () => ({ __esModule: true, default: [save, notices] });
    }
  };
})();
