"""Where tasks run: in this process, on a Ray cluster, as Slurm jobs.

Each is a `concurrent.futures.Executor`, as are the process pool of the standard library, Dask's
`client.get_executor()` and mpi4py's pool, which serve as well. Those here also have `room()`, how
many tasks are worth submitting in all, and `describe()`. They know nothing of what a task does, but
take its first argument for one that many tasks share, which is sent once.
"""
