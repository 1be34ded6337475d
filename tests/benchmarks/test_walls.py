"""What walls cost: the start of an agent until it says hello, and a command in it, at each level in turn, with nothing else of toka in between."""

from __future__ import annotations

import pytest

from tests.sandbox.cells import Player, users

LEVELS = ("none", "standard", "full")
ROUNDS = 20

BODY = """
import time
starts, commands, cpu = {level: [] for level in levels}, {level: [] for level in levels}, {level: [] for level in levels}
async with AgentProcessManager("forkserver", cgroups=False) as manager:
    for number in range(rounds):
        for level in levels:
            around = None if level == "none" else walls(level, write_execute=[workspace])
            began = time.perf_counter()
            cell, kernel = await start(manager, around, *[("true",)] * 5, name=f"{level}-{number}")
            await kernel.hello
            starts[level].append((time.perf_counter() - began) * 1000)
            cpu[level].append((await end(cell)).cpu_time_s * 1000)
            assert kernel.hello.result().isolation["level"] == ("process" if level == "none" else level)
            commands[level] += [done.outcome.duration_s * 1000 for done in kernel.outcomes.values()]
return [starts, commands, cpu, len(os.listdir("/proc"))]
"""


@pytest.mark.parametrize("user", users())
def test_the_walls_of_an_agent_and_of_its_commands(bench, share, user):
    player = Player(user)
    try:
        starts, commands, cpu, files = player.play(BODY, levels=LEVELS, rounds=ROUNDS)
    finally:
        player.close()
    for level in LEVELS:
        assert len(starts[level]) == ROUNDS
        assert len(commands[level]) == 5 * ROUNDS
        bench.record(
            f"walls {level}, as {user}",
            start_p50_ms=share(starts[level], 0.5),
            start_p90_ms=share(starts[level], 0.9),
            command_p50_ms=share(commands[level], 0.5),
            # Of the agent's whole life with five commands.
            cpu_p50_ms=share(cpu[level], 0.5),
        )
    # Entering a view looks at every process of the machine.
    bench.record(f"walls, as {user}: beside", processes=files)
