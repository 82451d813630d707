"""A server with a class at work that is not there: simulated learners and GPUs, so that one can see it before.

* ``run``: ``gradlab demo``, the server and beside it everything that is simulated;
* ``crowd``: the process of the learners and of the machine;
* ``learners``, ``students``: people who log in and hand in solutions and mistakes, and how they choose those;
* ``machine``: which of them uses which simulated GPU how much;
* ``programs``: real processes that the simulated GPUs are used by;
* ``portal``, ``files``: the portal's process, which asks the simulated driver, and where it finds it.
"""
