"""What goes on in a store, in one screen: the latest runs stage by stage, who works on what, and the channels."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from davam.data import fs
from davam.data.artifacts import MANIFEST, Store, read_plans, short
from davam.data.channel import current, names
from davam.data.lease import Lease, is_gone, leases

MOST_RUNS = 5


def status(store_uri: str) -> list[str]:
    """The lines. Raises ArtifactError when the store cannot be read."""
    held = {lease.name: lease for lease in leases(store_uri)}
    plans = sorted(read_plans(store_uri).values(), key=itemgetter("created_utc"), reverse=True)[:MOST_RUNS]
    planned = {f"{name}-{short(identity)}" for plan in plans for name, identity in plan["stages"].items()}
    lines = [f"store     {store_uri}"]
    for plan in plans:
        lines += _run_lines(store_uri, plan, held)
    lines += [f"working   {name}: {_said(lease)}" for name, lease in held.items() if name not in planned]
    for name in names(store_uri):
        promotion = current(store_uri, name)
        if promotion is not None:
            lines.append(
                f"channel   {name}: {promotion.run}, number {promotion.number}, {promotion.promoted_utc}; "
                f"{'; '.join(promotion.reasons)}"
            )
    return lines if len(lines) > 1 else [*lines, "nothing was made here yet"]


def _run_lines(store_uri: str, plan: Mapping[str, Any], held: Mapping[str, Lease]) -> list[str]:
    store, done, left, working = Store(store_uri), [], [], []
    for name, identity in plan["stages"].items():
        lease = held.get(f"{name}-{short(identity)}")
        if lease is not None:
            working.append(f"working   {name}: {_said(lease)}")
        elif fs.exists(fs.join(store.artifact_uri(name, identity), MANIFEST)):
            done.append(name)
        else:
            left.append(name)
    last = short(list(plan["stages"].values())[-1])
    state = (
        "done"
        if not left and not working
        else f"done: {', '.join(done) or 'nothing'}; left: {', '.join(left) or 'nothing'}"
    )
    return [f"run       {last}  {plan['created_utc'][:19]}  {state}  ({' '.join(plan['arguments'])})", *working]


def _said(lease: Lease) -> str:
    return f"{lease.holder}{', which has ended' if is_gone(lease.holder) else ''}"
