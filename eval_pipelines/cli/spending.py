"""`eval-pipelines spent`: what was spent today, and what daily budgets leave."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from eval_pipelines.client.spent import Spent, spent_today
from eval_pipelines.config import Config, load_config
from eval_pipelines.config.prices import UNITS, in_words


@click.command("spent")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_obj
def spent(path: Path, as_json: bool) -> None:
    """What was spent today (UTC) at each address with a daily budget, and what is left."""
    config, now = load_config(path), time.time()
    counted = [one for one in spent_today(config.data_root / "leases", now) if one.deployments]
    budgets = [name for name, one in config.deployments.items() if one.daily_tokens or one.daily_cost]
    found = [_told(config, one) for one in counted]
    unused = [name for name in budgets if not any(name in one.deployments for one in counted)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not budgets:
        click.echo("no deployment has a budget: set daily_tokens or daily_cost in evals.yaml")
    for told in found:
        click.echo(f"{told['account']}  {datetime.fromtimestamp(now, UTC):%Y-%m-%d} UTC")
        click.echo(f"  {_amounts(told['tokens'], told['costs'])} spent{_waiting(told['in_flight'])}")
        for name, left in told["left"].items():
            click.echo(f"  {name}: {_amounts(left['tokens'], left['costs'])} left")
    for name in unused:
        click.echo(f"{name}: nothing spent today")


def _told(config: Config, state: Spent) -> dict[str, Any]:
    currency = config.prices.currency
    left: dict[str, Any] = {}
    for name in state.deployments:
        deployment = config.deployments.get(name)
        if deployment is None:
            continue
        tokens, cost = deployment.daily_tokens, deployment.daily_cost
        money = {} if cost is None else {currency: max(0.0, cost - state.costs.get(currency, 0) / UNITS)}
        left[name] = {"tokens": None if tokens is None else max(0, tokens - state.tokens), "costs": money}
    return {
        "account": state.account,
        "tokens": state.tokens,
        "costs": {name: cost / UNITS for name, cost in state.costs.items()},
        "in_flight": sum(state.in_flight.values()),
        "left": left,
    }


def _waiting(n: int) -> str:
    return f", {n} requests in flight counted as they may be" if n else ""


def _amounts(tokens: int | None, costs: dict[str, float]) -> str:
    money = [in_words(cost, currency) for currency, cost in costs.items()]
    return ", ".join([*([f"{tokens:,} tokens"] if tokens is not None else []), *money])
