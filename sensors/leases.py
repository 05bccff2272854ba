"""Put right what a crash left of the servers on this machine."""

import dagster as dg

from resources.endpoints import EndpointsResource


@dg.sensor(
    name="reconcile_servers",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Kills servers whose keeper was killed, and forgets servers that do not run. Never touches a leased one.",
)
def leases_sensor(context: dg.SensorEvaluationContext, endpoints: EndpointsResource) -> dg.SkipReason:
    """It asks for no run: it acts, and says what it did."""
    done = endpoints.reconcile()
    for pid, server in done.killed.items():
        context.log.warning(f"killed process {pid}, which {server} had left behind")
    words = [f"killed {len(done.killed)} processes"] * bool(done.killed)
    words += [f"forgot {', '.join(done.forgotten)}"] * bool(done.forgotten)
    words += [f"removed the logs of {', '.join(done.removed)}"] * bool(done.removed)
    return dg.SkipReason("; ".join(words) or "every server has its keeper")
