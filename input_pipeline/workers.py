"""What a data worker process does at its start, so that its life follows the main process's."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

import cv2


def _exit_with_parent() -> None:
  parent = multiprocessing.parent_process()
  multiprocessing.connection.wait([parent.sentinel])
  os._exit(1)


def init_worker(worker_index: int, worker_count: int) -> None:
  """Prepares a worker process; the signature is the one grain's mp_prefetch calls.

  Parallelism comes from the number of workers, so OpenCV keeps to one thread in each.
  Ctrl-C and a preemption's SIGTERM reach the whole process group: the main process must still be
  able to draw batches until it has saved, so workers ignore both and end when it closes them. If
  it dies without closing them (SIGKILL, out of memory), they end with it and leave no orphans.
  """
  del worker_index, worker_count
  cv2.setNumThreads(0)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_exit_with_parent, name="exit-with-parent", daemon=True).start()
