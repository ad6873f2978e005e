"""Workers: work that is done by any executor, with limits for each piece, again if a worker is lost."""

from nearzero.support.workers.executors import dask_executor, local_processes, stop
from nearzero.support.workers.packed import Packed
from nearzero.support.workers.tasks import do_all
from nearzero.support.workers.workers import HERE, Workers

__all__ = ["HERE", "Packed", "Workers", "dask_executor", "do_all", "local_processes", "stop"]
