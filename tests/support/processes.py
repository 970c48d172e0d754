"""Multiprocessing context for tests of concurrent processes. Processes are forked from a server that has done the imports."""

import multiprocessing

FORKED = multiprocessing.get_context("forkserver")  # forking the test's own process could hang, because it has threads
FORKED.set_forkserver_preload(["tests.support.harness"])
