"""Starts a search again and again, and kills a victim of a random kind at a random moment each time."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from kills.clone import COMMAND, DVC, GCS, RAYLET, STAGE, WORKER, Clone, Process, wait_until
from kills.tail import Tail
from pipeline.state.dvc_lock import is_whole

START, REPLAY, FIRST, PAUSED = "start", "replay", "first epochs", "while a trial is paused"
MIDDLE, CONFIRM, END = "middle", "confirmations", "end"
ALL = "all"  # of the command's process group, which is whom a terminal interrupts
PHASES = (START, REPLAY, FIRST, PAUSED, MIDDLE, CONFIRM, END)

# Two signals for a stage, and workers twice as often as Ray's own processes: as often as they come to harm in practice.
VICTIMS = (
    (WORKER, signal.SIGKILL),
    (STAGE, signal.SIGKILL),
    (STAGE, signal.SIGINT),
    (DVC, signal.SIGKILL),
    (WORKER, signal.SIGKILL),
    (ALL, signal.SIGINT),
    (RAYLET, signal.SIGKILL),
    (GCS, signal.SIGKILL),
    (COMMAND, signal.SIGKILL),
)

PATIENCE_S = 180.0
"""For whatever must come by itself: the next epoch, the end of what was killed."""

REFUSED = 2


class Series:
    """kills: by (victim, signal); phases: by name. refusals: starts that were refused while a stage lived on.

    torn: starts by `sar-search repro`, which mends that, because a killed DVC had left half a dvc.lock.
    """

    def __init__(self, clone: Clone, chance: random.Random, say: Callable[[str], None]) -> None:
        self.clone, self.chance, self.say = clone, chance, say
        self.tail = Tail(clone.root / "state" / "searches")
        self.kills: Counter[tuple[str, str]] = Counter()
        self.phases: Counter[str] = Counter()
        self.refusals = 0
        self.torn = 0
        self.violations: list[str] = []
        self._command: subprocess.Popen[bytes] | None = None
        self._excused = True  # whether the command may end with a failure: it, or what it waits for, was harmed
        self._since = 0  # events before this session
        self._finished = False
        self._begun = time.monotonic()
        self._deck: list[tuple[str, signal.Signals]] = []
        self._kept = b""  # what the journal held at the last kill

    def run(self, kills: int, *, trials: int, like: Clone) -> None:
        """All kills, and then an end in peace. like: a clone whose search was left alone, to know how much there is."""
        whole = Tail(like.root / "state" / "searches").update()
        runs = whole.count("started")
        of_trials = sum(event["event"] == "epoch" and "-seed" not in event["trial"] for event in whole.events)
        order = [PHASES[index % len(PHASES)] for index in range(kills)]
        early = [phase for phase in order if PHASES.index(phase) <= PHASES.index(MIDDLE)]
        self.chance.shuffle(early)
        order = early + sorted(order[:kills], key=PHASES.index)[len(early) :]
        for index, phase in enumerate(order):
            ahead = order[index:].count(MIDDLE)
            pace = max(1, (of_trials - self.tail.update().count("epoch")) // max(1, ahead + 1))
            while not self._attempt(phase, pace, runs):
                pass
            self._check_kept()
        while not self._finished:
            self._ensure_started()
            self._await_end()
        left = 0 if wait_until(lambda: not self.clone.processes(), 60) else self.clone.end_all()
        self._expect(not left, f"{left} processes outlived the search by a minute")

    def _attempt(self, phase: str, pace: int, runs: int) -> bool:
        """One kill, if there is a victim left at the moment that was drawn."""
        self._ensure_started()
        if not self._await(phase, pace, runs):
            self._await_end()
            return False
        victim, number = self._draw()
        if victim == ALL:
            here = [each for each in self.clone.processes() if self._command and each.group == self._command.pid]
        else:
            here = self.clone.processes(victim)
        if not here:
            return False
        self._kept = self.tail.content()
        hit = [each for each in (here if victim == ALL else [self.chance.choice(here)]) if each.send(number)]
        if not hit:
            return False
        at = time.monotonic() - self._begun
        self.kills[victim, number.name] += 1
        self.phases[phase] += 1
        done = sum(self.kills.values())
        self.say(f"{done}: {number.name} to {victim} in {phase}, {at:.1f} s after the start")
        self._deck.remove((victim, number))
        self._after(victim, hit)
        return True

    def _draw(self) -> tuple[str, signal.Signals]:
        """The next card of a shuffled deck that has a victim here now."""
        if not self._deck:
            self._deck = list(VICTIMS)
            self.chance.shuffle(self._deck)
        there = {process.role for process in self.clone.processes()} | ({ALL} if self._command else set())
        return next((card for card in self._deck if card[0] in there), self._any(there))

    def _any(self, there: set[str]) -> tuple[str, signal.Signals]:
        cards = [card for card in VICTIMS if card[0] in there] or list(VICTIMS)
        card = self.chance.choice(cards)
        self._deck.append(card)
        return card

    def _ensure_started(self) -> None:
        if self._command is not None or self.clone.processes(STAGE):
            return
        self._since = len(self.tail.update().events)
        again = ["--force", "--single-item"] if self._finished else []
        sar = [sys.executable, "-m", "pipeline.cli", "repro"]
        lock = self.clone.root / "dvc.lock"
        torn = lock.exists() and not is_whole(lock)
        self.torn += torn
        program = sar if self.chance.random() < 0.3 or torn else ["dvc", "repro"]
        self._command = self.clone.start([*program, *again, "search"])
        self._begun, self._excused, self._finished = time.monotonic(), False, False

    def _await(self, phase: str, pace: int, runs: int) -> bool:
        """Wait for a moment in a phase. False if the search has ended before it came."""

        def new(kind: str) -> int:
            return self.tail.update().count(kind, self._since)

        def all_ended() -> bool:
            return self.tail.update().count("ended") >= runs and new("session") > 0

        came: Callable[[], bool] = {
            START: lambda: True,
            REPLAY: lambda: new("session") > 0,
            FIRST: lambda: new("epoch") > 0,
            PAUSED: lambda: new("paused") > 0,
            MIDDLE: lambda: new("epoch") >= pace,
            CONFIRM: lambda: self.tail.update().confirming(self._since),
            END: all_ended,
        }[phase]
        within = {START: 14.0, REPLAY: 5.0, FIRST: 1.0, PAUSED: 0.5, MIDDLE: 0.5, CONFIRM: 1.5, END: 4.0}[phase]
        before = len(self.tail.update().events)

        def ready() -> bool:
            return came() or all_ended() or not self._alive()

        while not wait_until(ready, PATIENCE_S):
            if len(self.tail.update().events) == before:
                self._expect(False, f"nothing happened for {PATIENCE_S:.0f} s")
                self.clone.end_all()
                self._excused = True
                return False
            before = len(self.tail.events)
        late = phase != START and self.chance.random() < 0.3
        until = time.monotonic() + (within if not late else within / 5) * self.chance.random()
        wait_until(lambda: time.monotonic() > until or not self._alive(), within)
        return self._alive()

    def _alive(self) -> bool:
        if self._command is not None and self._command.poll() is None:
            return True
        return bool(self.clone.processes(STAGE))

    def _await_end(self) -> None:
        """Wait until command and stage have ended, and see how."""
        ended = wait_until(lambda: not self._alive(), PATIENCE_S)
        self._expect(ended, f"what was to end did not within {PATIENCE_S:.0f} s")
        if not ended:
            self.clone.end_all()
        if self._command is None:
            return
        status, self._command = self._command.wait(), None
        self._expect(status == 0 or self._excused, f"a search that nobody harmed ended with status {status}")
        self._finished = status == 0

    def _after(self, victim: str, hit: Sequence[Process]) -> None:
        if victim == WORKER:
            return  # the search goes on
        self._excused = True
        if victim in (DVC, COMMAND):
            self._after_command()
            return
        gone = {process.pid for process in hit if process.role in (STAGE, RAYLET, GCS)}
        if victim in (RAYLET, GCS):
            # What follows is Ray's affair, as long as the stage ends, or goes on.
            started, before = time.monotonic(), len(self.tail.update().events)
            wait_until(lambda: not self.clone.processes(STAGE) or self._goes_on(before), PATIENCE_S)
            ended = not self.clone.processes(STAGE)
            self.say(f"    the stage {'ended' if ended else 'went on'} after {time.monotonic() - started:.1f} s")
            if not ended:
                self._expect(self._goes_on(before), f"the stage hung after {victim} was killed")
                if not self._goes_on(before):
                    self.clone.end_all()
                return
        elif gone:
            ended = wait_until(lambda: not any(p.pid in gone for p in self.clone.processes(STAGE)), PATIENCE_S)
            self._expect(ended, f"the stage did not end after {victim} was told to")
        self._await_end()
        if self.chance.random() < 0.5:
            wait_until(lambda: not self.clone.processes(), 30)

    def _goes_on(self, before: int) -> bool:
        return self.tail.update().count("epoch", before) > 6

    def _after_command(self) -> None:
        """A stage outlives its command: while it does, a start must be refused."""
        wait_until(lambda: self._command is None or self._command.poll() is not None, 2)
        # DVC, orphaned before its stage began, starts it all the same.
        wait_until(lambda: bool(self.clone.processes(STAGE)) or not self.clone.processes(DVC, COMMAND), 60)
        stage = self.clone.processes(STAGE)
        if self._command is not None and self._command.poll() is not None:
            self._command = None
        if not stage:
            return
        opened = wait_until(lambda: (self.clone.root / "state" / "stage.lock").exists(), 20)
        time.sleep(3 if not self.tail.update().count("session", self._since) else 0)
        status = self.clone.run([sys.executable, "-m", "pipeline.cli", "repro", "search"])
        if self.clone.processes(STAGE) and opened:
            self._expect(status == REFUSED, f"a start beside a living stage ended with {status}, not {REFUSED}")
            self.refusals += status == REFUSED
        if self.chance.random() < 0.6:
            for process in self.clone.processes(STAGE):
                process.send(signal.SIGKILL)
            self._await_end()

    def _check_kept(self) -> None:
        """What the journal had at any kill is there still, at the same place."""
        self._expect(self.tail.content().startswith(self._kept), "the journal lost or changed what it had")

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.say(f"    VIOLATION: {otherwise}")
            self.violations.append(otherwise)
