"""The leader's side of the meeting as a table of states: bytes and time in, bytes out. It touches no socket.

A verdict in three steps: VERDICT to all, everybody's ACK of this round, GO. A member that is lost in between
starts a new round, so nobody goes because of somebody who is not there. What is odd (garbage, silence, callers of
other groups) is said once a kind, costs a bounded amount of memory and time, and disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from sglang_roce_entry.group.meeting import terms, wire
from sglang_roce_entry.group.meeting.card import Card, read_card, read_common, shown
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.reach import beside, neighbours
from sglang_roce_entry.group.meeting.comparison.verdict import write_verdict
from sglang_roce_entry.group.meeting.crowd import Crowd
from sglang_roce_entry.group.meeting.missing import Absent, Names, Roll
from sglang_roce_entry.group.meeting.ring.rounds import Ring, Round, read_results
from sglang_roce_entry.group.meeting.terms import (
    ACKNOWLEDGE,
    CLOSING,
    ENDED,
    GATHER,
    GONE,
    HERE,
    TOLD,
    Conclude,
    Concluded,
    Gathered,
    Peer,
    Terms,
    Transport,
)
from sglang_roce_entry.problems import OK


class Table(Crowd):
    """Who is here, what each has said, and what comes next.

    ``conclude`` makes a verdict of what was gathered. ``clock`` counts seconds, ``wall`` is the wall clock.
    """

    def __init__(
        self,
        agreed: Terms,
        own: Card,
        transport: Transport,
        conclude: Conclude,
        say: Callable[[str], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        names: Names,
    ) -> None:
        super().__init__(say, clock)
        self.phase = GATHER
        self.concluded: Concluded | None = None
        self.members: dict[int, Peer] = {}
        self._terms, self._transport, self._conclude, self._wall = agreed, transport, conclude, wall
        now_s = own.own.clock_s if own.own.clock_s is not None else wall()
        self._own = Member(own, own.own.address or "", now_s, now_s)
        self._commons: dict[str, Mapping[str, str]] = {own.digest: own.common or {}}
        self._asked: dict[str, Peer] = {}
        self._twins: list[Peer] = []
        self._started = self._phase_since = self._swept = clock()
        self._hopeless_since = self._started if own.refusal is not None else None
        self._roll = Roll(agreed.size, names, self._started)
        self._round, self._ring, self._told = 0, Ring(), b""
        self._broken = False

    # ------------------------------------------------------------------------------------ what happens

    def connected(self, peer: Peer) -> None:
        """Take a new connection and greet it."""
        self.peers[peer] = None
        if self.phase in (CLOSING, terms.DONE):
            self._drop(peer)  # it dials again, and finds SGLang
        else:
            self._transport.send(peer, wire.greeting(self._terms.group, self._terms.nonce).line())

    def left(self, peer: Peer) -> None:
        """Take note that a connection is over."""
        index = peer.member.card.index if peer.member is not None else 0
        if self.members.get(index) is peer and self.phase in (GATHER, ACKNOWLEDGE):
            self._roll.left[index] = peer.address
        self._drop(peer)

    def tick(self) -> None:
        """Do what is due. To be called after every round of reading, several times a second."""
        now = self._clock()
        self._rounds += 1
        if self._broken:
            self._again()
        if now >= self._swept + terms.SWEEP_S:  # never in every round: there may be 10,000
            self._swept = now
            slow = (terms.NEW, terms.ASKED, TOLD) if self.phase == ENDED else (terms.NEW, terms.ASKED)
            self._sweep(now, slow, self._terms.size + terms.STRANGERS)
            self._take_over(now)
        if self.phase == GATHER:
            self._status(now)
            self._maybe_conclude(now)
        elif self.phase == ACKNOWLEDGE:
            self._maybe_go(now)
        if self.phase == CLOSING and (not self.members or now >= self._phase_since + terms.CLOSE_S):
            self.phase = terms.DONE

    def reached(self, index: int, rest: bytes) -> None:
        """Take what member ``index`` reports of its calls in the ring. Raises ``ValueError``."""
        number, text = wire.split(rest)
        if number.isdigit():
            self._ring.took(index, int(number[:9]), read_results(index, text))

    def _line(self, peer: Peer, line: bytes) -> None:
        word, rest = wire.split(line)
        if word == wire.CARD and peer.state == terms.NEW:
            self._card(peer, read_card(rest))
        elif word == wire.COMMON and peer.state == terms.ASKED and peer.member is not None:
            digest = peer.member.card.digest
            self._commons[digest] = read_common(rest, digest)
            peer.state = HERE
        elif word == wire.ACK and peer.state in (HERE, TOLD):
            # One that crossed an AGAIN is of an older round.
            if peer.state == TOLD and rest == b"%d" % self._round:
                peer.state = terms.ACKED
        elif word == wire.REACHED and peer.member is not None:
            self.reached(peer.member.card.index, rest)
        elif word in wire.OF_A_PROOF and peer.member is not None:
            self._transport.prove(peer.member.card.index, word, rest)
        elif word == wire.PONG and peer.member is not None:
            self._alive(peer, peer.member.card.index)
        else:
            raise ValueError(f"{shown(repr(word[:16]))} while {peer.state}")

    def _card(self, peer: Peer, card: Card) -> None:
        if not wire.same_group(card.group, self._terms.group):
            self._odd("group", f"{peer.address} brought a card of the group {card.group!r}, this is another")
            return self._drop(peer)
        if not 0 < card.index < self._terms.size:
            said = (
                f"{card.pod or '?'} ({peer.address}) calls itself {card.index} of {card.size}, "
                f"but this group has the workers 1 to {self._terms.size - 1}"
            )
            self._odd("index", said)
            self._transport.send(peer, b"%s %s\n" % (wire.STATUS, said.encode()))
            return self._drop(peer)
        if self.phase == ENDED:
            return self._tell(peer)
        peer.member = Member(card, peer.address, peer.connected_at_s, self._wall())
        if self.phase == ACKNOWLEDGE:
            return self._drop(peer)  # it dials again, and comes to the next round or finds SGLang
        holder = self.members.get(card.index)
        if holder is None:
            return self._join(peer)
        if self._parked(card.index):
            return self._drop(peer)
        # The first one keeps the index as long as it answers.
        peer.state, peer.since = terms.PARKED, self._clock()
        return self._transport.send(holder, wire.PING + b"\n")

    def _alive(self, holder: Peer, index: int) -> None:
        if self.members.get(index) is not holder:
            return
        for peer in self._parked(index):
            if peer.address == holder.address and peer.member and peer.member.card.refusal:
                self._odd("second", f"a second launcher at {peer.address} cannot start; worker {index} is here")
                self._drop(peer)
                continue
            peer.state = HERE
            self._twins.append(peer)
            self._hopeless()

    def _join(self, peer: Peer) -> None:
        card = peer.member.card if peer.member is not None else self._own.card
        peer.state, self.members[card.index] = HERE, peer
        self._roll.came(card.index, self._clock())
        if card.refusal is not None:
            self._hopeless()
        self._want(peer, card.digest)
        if peer.member is not None and self._hopeless_since is None:
            sides = {(card.index - 1) % self._terms.size, (card.index + 1) % self._terms.size}
            self._dial(self._ring.ask(beside(peer.member, self._here(sides)), self._clock()))

    def _want(self, peer: Peer, digest: str) -> None:
        """Ask for the text behind a digest once, and for that of so many digests at most."""
        if digest in self._commons or digest in self._asked or len(self._asked) >= terms.COMMONS:
            return
        self._asked[digest] = peer
        peer.state, peer.since = terms.ASKED, self._clock()
        self._transport.send(peer, wire.WANT + b"\n")

    def _hope_again(self) -> None:
        """Wait for all again where nobody who refuses is left: a pod was replaced, a command was tried."""
        if self._hopeless_since is not None and self.phase == GATHER and not self._twins:
            here = (self._own, *(one.member for one in self.members.values()))
            if not any(one and one.card.refusal for one in here):
                self._hopeless_since = None

    def _hopeless(self) -> None:
        if self._hopeless_since is None:
            self._hopeless_since = self._clock()

    # ------------------------------------------------------------------------------------ rounds

    def _maybe_conclude(self, now: float) -> None:
        overdue = now >= self._started + self._terms.deadline_s
        refused_s = now - self._hopeless_since if self._hopeless_since is not None else -1.0
        hopeless = refused_s >= self._terms.patience_s
        complete = len(self.members) == self._terms.size - 1
        ahead = () if complete else self._ahead(now)
        if not (complete or overdue or hopeless or ahead) or self._transport.proving():
            return
        late = overdue or refused_s >= self._terms.patience_s + terms.TEXTS_S
        if not late and any(digest not in self._commons for digest in self._asked):
            return  # a moment: whoever does not answer is dropped
        if self._hopeless_since is None and not overdue and not self._reached(now):
            return
        here = [peer.member for peer in (*self.members.values(), *self._twins) if peer.member is not None]
        absent, edges = ahead or self.absent(), self._ring.edges()
        concluded = self._conclude(
            Gathered([self._own, *here], self._commons, absent, edges, overdue and not complete and not ahead)
        )
        if concluded is None:
            return
        self.concluded = concluded
        self._round += 1
        self._told = b"%s %d %s\n" % (wire.VERDICT, self._round, write_verdict(concluded.verdict))
        if concluded.document is not None:
            self._told = wire.TABLE + b" " + concluded.document + b"\n" + self._told
        self.phase, self._phase_since = ACKNOWLEDGE, self._clock()
        for peer in (*self.members.values(), *self._twins):
            self._tell(peer)

    def _ahead(self, now: float) -> tuple[Absent, ...]:
        """Return all who are absent, where all of them have started SGLang already."""
        present = {peer.address for peer in self.members.values()}
        return self._roll.ahead(now, self.members, {self._own.address, *present})

    def _reached(self, now: float) -> bool:
        """Return whether the ring of neighbours is through; ask for what is missing if it is not."""
        if not self._ring.over(now):
            return False
        rounds = list(self._ring.ask(neighbours(self._here((0, *self.members))), now))
        self._dial(rounds)
        return not rounds

    def _here(self, indices: Iterable[int]) -> Iterator[Member]:
        """Yield those of ``indices`` who are here, the leader among them."""
        for index in indices:
            member = self._own if index == 0 else self.members[index].member if index in self.members else None
            if member is not None:
                yield member

    def _dial(self, rounds: Iterable[Round]) -> None:
        for one in rounds:
            if one.origin == 0:
                self._transport.call_neighbours(one.number, one.those)
            else:
                self._transport.send(self.members[one.origin], one.line() + b"\n")

    def _tell(self, peer: Peer) -> None:
        peer.state = TOLD
        self._transport.send(peer, self._told)

    def _maybe_go(self, now: float) -> None:
        told = (*self.members.values(), *self._twins)
        waiting = [peer for peer in told if peer.state != terms.ACKED]
        if waiting and now < self._phase_since + terms.ACK_S:
            return
        if not self._may_start():
            self.phase, self._phase_since = ENDED, now
            return
        if waiting:
            for peer in waiting:
                self._odd("ack", f"{peer.address} did not acknowledge the verdict")
                self.left(peer)
            return
        self.phase, self._phase_since = CLOSING, now
        for peer in told:
            self._transport.send(peer, wire.GO + b"\n")

    def _may_start(self) -> bool:
        return self.concluded is not None and self.concluded.verdict.exit_code == OK

    def _again(self) -> None:
        self._broken = False
        if self.phase != ACKNOWLEDGE:
            return
        self._say("a member was lost before all had acknowledged the verdict: gathering again")
        self.phase, self.concluded = GATHER, None
        for peer in self.members.values():
            peer.state = HERE
            self._transport.send(peer, wire.AGAIN + b"\n")

    # ------------------------------------------------------------------------------------ who is absent

    def _retries(self, peer: Peer) -> None:
        self._roll.retries(peer.address, self._clock())

    def absent(self) -> tuple[Absent, ...]:
        """Return who is not here."""
        return self._roll.absent(self.members)

    def _status(self, now: float) -> None:
        said = self._roll.status(now, self.members)
        if said is None:
            return
        self._say(f"{said} ({now - self._started:.0f} of {self._terms.deadline_s:.0f} s)")
        line = b"%s %s\n" % (wire.STATUS, shown(said, 2000).encode())
        for peer in self.members.values():
            self._transport.send(peer, line)

    def _take_over(self, now: float) -> None:
        """Give an index to who claims it, where the one that holds it does not answer."""
        for peer in self._parked():
            if now > peer.since + terms.PONG_S and peer.member is not None and self.phase == GATHER:
                holder = self.members.get(peer.member.card.index)
                if holder is not None:
                    self._drop(holder)
                self._join(peer)

    def _drop(self, peer: Peer) -> None:
        if peer.state == GONE:
            return
        peer.state = GONE
        peer.inbox.clear()
        self.peers.pop(peer, None)
        self._transport.close(peer)
        if peer in self._twins:
            self._twins.remove(peer)
        member = peer.member
        if member is None or self.members.get(member.card.index) is not peer:
            self._hope_again()
            return
        del self.members[member.card.index]
        self._ring.forget(member.card.index)
        twin = next(
            (one for one in self._twins if one.member and one.member.card.index == member.card.index), None
        )
        if twin is not None and self.phase == GATHER:
            self._twins.remove(twin)
            self._join(twin)
        self._hope_again()
        if self.phase == ACKNOWLEDGE and self._may_start():
            self._broken = True  # nobody goes because of somebody who is not there
        digest = member.card.digest
        if self._asked.get(digest) is peer and digest not in self._commons:
            del self._asked[digest]
            alike = (one for one in self.members.values() if one.member and one.member.card.digest == digest)
            if (other := next(alike, None)) is not None:
                self._want(other, digest)
