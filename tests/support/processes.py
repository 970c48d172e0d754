"""Processes for tests of what several do at once: forked from a server without threads, which has imported what they need."""

import multiprocessing

FORKED = multiprocessing.get_context("forkserver")  # a fork of the test's own process, which has threads, may hang
FORKED.set_forkserver_preload(["tests.support.harness"])
