/*
 * Saves the notebook a check was started in, and tells the kernel which file that is.
 *
 * labkit puts a request id into the `transient` part of its "checking …" output. The page that ran the cell (its client
 * id is in the message's parent header) saves exactly that notebook, whatever tab is in front and however many browser
 * windows show it, and reports over a comm: "saving", then "saved" or "failed". The comm is opened from here because
 * JupyterLab then sends it over a kernel subshell, which works while the cell is still running.
 *
 * This file is a module-federation container written by hand: it needs no bundler and no build step.
 */
(() => {
  const TARGET = 'gradlab.saved';
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

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB.gradlab = {
    init: shareScope => {
      scope = shareScope;
    },
    get: async () => {
      const { INotebookTracker } = await shared('@jupyterlab/notebook');
      const plugin = { id: 'gradlab:save', autoStart: true, requires: [INotebookTracker], activate };
      return () => ({ __esModule: true, default: plugin });
    }
  };
})();
