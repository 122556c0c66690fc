"""A simulated Seven Bridges platform, served over HTTP: for the demo, for tests and for rehearsing alerts.

It imports nothing of the exporter, so that it can prove the exporter's counts. A rehearsal takes a few lines::

    with running(QUIET) as simulator:
        job_id = simulator.platform.submit(JobScript(operation="copy", total=500, failed=20, running=600))
        simulator.platform.queue(Fault(kind=FaultKind.MAINTENANCE), matching="/async/files", times=3)
        ...  # an exporter polls simulator.url with DEMO_TOKEN
        assert simulator.platform.truth().files["copy"]["failed"] == 20

====================  ==============================================================
``settings``          options that are fixed at the start
``scripts``           the course of a job, random from a seed or written by hand
``jobs``, ``users``   jobs, lists and rate limits
``platform``          requests to responses, without sockets
``faults``            faults, injected or random
``control``           control requests for rehearsals, ``/simulator``
``answers``           requests and responses as values
``clock``             simulated time
``server``            HTTP
====================  ==============================================================
"""
