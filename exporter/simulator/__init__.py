"""A platform in a box: imitates the Seven Bridges API over HTTP, for the demo, for tests and for rehearsing alerts.

It knows nothing of the exporter, so what the exporter makes of it proves something.  A rehearsal is a few lines::

    with running(QUIET) as simulator:
        job_id = simulator.platform.submit(JobScript(operation="copy", total=500, failed=20, running=600))
        simulator.platform.queue(Fault(kind=FaultKind.MAINTENANCE), matching="/async/files", times=3)
        ...  # an exporter polls simulator.url with DEMO_TOKEN
        assert simulator.platform.truth().files["copy"]["failed"] == 20

====================  ==============================================================
``settings``          what it can be told before it starts
``scripts``           what a job will do, thrown by seeded dice or written by hand
``jobs``, ``users``   jobs, lists and rate limits as the platform keeps them
``platform``          requests in, answers out; no socket
``faults``            what goes wrong, queued or by chance
``control``           the side entrance for rehearsals, ``/simulator``
``server``            HTTP
====================  ==============================================================
"""
