from __future__ import annotations

from cluster.metrics import page
from tests.cluster.control.scenes import (
    Scene,
    play,
)


def test_samples_of_workers_ingresses_and_the_supervisor_are_one_page() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        text = page(await s.supervisor.samples("i0", [])).decode()
        assert 'cluster_replicas_wanted{model="m"} 1.0' in text
        assert 'cluster_model_state{model="m",state="READY"} 1.0' in text
        # One label, one meaning: what a worker counts and what is known of it can be joined.
        labels = f'model="m",replica="{s.world.started[0]}"'
        assert f'cluster_worker_state{{{labels},state="READY"}} 1.0' in text
        assert f"cluster_queue_items{{{labels}}}" in text

    play(scene)
