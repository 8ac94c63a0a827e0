import * as fc from "fast-check";
import { expect, test } from "vitest";

import { ReceiverWindow } from "./receiver-window.ts";
import { SenderWindow, type CreditFigures } from "./sender-window.ts";

const credit = (acknowledged: number, limit: number, flags: Partial<CreditFigures> = {}): CreditFigures => ({
  acknowledged,
  limit,
  resend: false,
  complete: false,
  ...flags,
});

function takeAll<T>(window: SenderWindow<T>): T[] {
  const taken: T[] = [];
  for (let next = window.take(); next !== undefined; next = window.take()) taken.push(next.chunk);
  return taken;
}

test("sender: nothing leaves before the first credit, and never more than the limit", () => {
  const window = new SenderWindow<string>(4);
  for (const name of ["a", "b", "c", "d"]) window.add(name, false);
  expect(window.room).toBe(0);
  expect(takeAll(window)).toEqual([]);
  expect(window.credit(credit(0, 3))).toEqual([]);
  expect(takeAll(window)).toEqual(["a", "b", "c"]);
  expect(window.credit(credit(2, 5))).toEqual(["a", "b"]);
  expect(takeAll(window)).toEqual(["d"]);
  expect(window.room).toBeGreaterThan(0);
});

test("sender: goes back on resend, and credits that are late or impossible change nothing", () => {
  const window = new SenderWindow<string>(4);
  for (const name of ["a", "b", "c"]) window.add(name, false);
  window.credit(credit(0, 9));
  expect(takeAll(window)).toEqual(["a", "b", "c"]);
  expect(window.credit(credit(1, 9, { resend: true }))).toEqual(["a"]);
  expect(takeAll(window)).toEqual(["b", "c"]);
  for (const odd of [credit(0, 9, { resend: true }), credit(4, 9), credit(2, 1), credit(Number.NaN, 9)]) {
    expect(window.credit(odd)).toEqual([]);
    expect(takeAll(window)).toEqual([]);
  }
});

test("sender: after a loss few are sent at a time, and more again as they arrive", () => {
  const window = new SenderWindow<number>(16);
  for (let number = 0; number < 16; number += 1) window.add(number, false);
  window.credit(credit(0, 16));
  expect(takeAll(window)).toHaveLength(16);
  expect(window.isHeldBack).toBe(false);
  window.credit(credit(2, 18, { resend: true }));
  expect(takeAll(window)).toEqual([2, 3, 4, 5]);
  expect(window.isHeldBack).toBe(true);
  window.credit(credit(6, 22));
  expect(takeAll(window)).toEqual([6, 7, 8, 9, 10, 11, 12, 13]);
  expect(window.isHeldBack).toBe(true);
  window.credit(credit(14, 30));
  expect(takeAll(window)).toEqual([14, 15]);
  expect(window.isHeldBack).toBe(false);
});

test("sender: complete only once the last chunk is acknowledged", () => {
  const window = new SenderWindow<string>(4);
  window.add("a", false);
  window.credit(credit(0, 4, { complete: true }));
  expect(window.complete).toBe(false);
  takeAll(window);
  window.add("b", true);
  expect(window.room).toBe(0);
  takeAll(window);
  window.credit(credit(1, 4, { complete: true }));
  expect(window.complete).toBe(false);
  window.credit(credit(2, 4, { complete: true }));
  expect(window.complete).toBe(true);
});

test("receiver: a gap is asked for once, and again only when the sender went back and lost it again", () => {
  const window = new ReceiverWindow(8);
  expect(window.offer(0)).toBe("next");
  window.accept(false);
  expect([window.offer(2), window.offer(3), window.offer(4)]).toEqual(["ask", "ignore", "ignore"]);
  expect(window.credit()).toMatchObject({ acknowledged: 1, resend: true });
  expect(window.credit()).toMatchObject({ resend: false });
  expect([window.offer(2), window.offer(3)]).toEqual(["ask", "ignore"]);
  expect(window.offer(1)).toBe("next");
});

test("receiver: holds no more than its capacity, and asks after a probe that is ahead", () => {
  const window = new ReceiverWindow(2);
  for (const sequence of [0, 1]) {
    expect(window.offer(sequence)).toBe("next");
    window.accept(false);
  }
  expect(window.offer(2)).toBe("ignore");
  window.consume();
  window.probe(2);
  expect(window.credit()).toMatchObject({ acknowledged: 2, limit: 3, resend: false });
  window.probe(3);
  expect(window.credit()).toMatchObject({ acknowledged: 2, resend: true });
});

test("receiver: after the end everything is answered with complete", () => {
  const window = new ReceiverWindow(2);
  window.offer(0);
  window.accept(true);
  expect(window.credit()).toMatchObject({ acknowledged: 1, complete: false });
  window.consume();
  expect(window.creditDue).toBe(true);
  expect(window.credit()).toMatchObject({ acknowledged: 1, complete: true });
  expect(window.offer(0)).toBe("ask");
  expect(window.credit()).toMatchObject({ complete: true });
});

type Fate = "deliver" | "lose" | "repeat" | "damage" | "delay";
const fate = fc.oneof(
  { weight: 6, arbitrary: fc.constant<Fate>("deliver") },
  { weight: 1, arbitrary: fc.constantFrom<Fate>("lose", "repeat", "damage", "delay") },
);

test("whatever the network does, every chunk arrives once and in order, and both sides stay within bounds", () => {
  fc.assert(
    fc.property(
      fc.record({
        chunks: fc.integer({ min: 1, max: 40 }),
        senderCapacity: fc.integer({ min: 1, max: 9 }),
        receiverCapacity: fc.integer({ min: 1, max: 9 }),
        consumerPace: fc.integer({ min: 1, max: 4 }),
        fates: fc.array(fate, { maxLength: 300 }),
      }),
      ({ chunks, senderCapacity, receiverCapacity, consumerPace, fates }) => {
        const sender = new SenderWindow<number>(senderCapacity);
        const receiver = new ReceiverWindow(receiverCapacity);
        type Message =
          { to: "receiver"; sequence: number; probe: boolean } | { to: "sender"; credit: CreditFigures };
        let wire: { message: Message; damaged: boolean }[] = [];
        const delayed: { message: Message; damaged: boolean }[] = [];
        let step = 0;
        const send = (message: Message): void => {
          switch (fates[step++] ?? "deliver") {
            case "lose":
              return;
            case "repeat":
              wire.push({ message, damaged: false });
              break;
            case "damage":
              wire.push({ message, damaged: true });
              return;
            case "delay":
              delayed.push({ message, damaged: false });
              return;
            case "deliver":
          }
          wire.push({ message, damaged: false });
        };
        const publishCredit = (): void => send({ to: "sender", credit: receiver.credit() });
        const transmit = (): void => {
          for (let taken = sender.take(); taken !== undefined; taken = sender.take()) {
            send({ to: "receiver", sequence: taken.chunk, probe: false });
          }
        };
        const arrived: number[] = [];
        let consumed = 0;
        const deliver = ({ message, damaged }: { message: Message; damaged: boolean }): void => {
          if (message.to === "sender") {
            if (!damaged) sender.credit(message.credit);
            transmit();
            return;
          }
          if (message.probe) {
            if (damaged) return;
            receiver.probe(message.sequence);
            publishCredit();
            return;
          }
          if (damaged) return;
          const verdict = receiver.offer(message.sequence);
          if (verdict === "next") {
            receiver.accept(message.sequence === chunks - 1);
            arrived.push(message.sequence);
            if (!receiver.creditDue) return;
          } else if (verdict === "ignore") return;
          publishCredit();
        };
        for (let round = 0; !sender.complete; round++) {
          if (round > 3000) throw new Error("no end in sight");
          while (sender.room > 0 && sender.next < chunks) sender.add(sender.next, sender.next === chunks - 1);
          transmit();
          const batch = wire.splice(0);
          if (batch.length === 0) {
            // Silence: the timer fires.
            wire = delayed.splice(0);
            send({ to: "receiver", sequence: sender.cursor, probe: true });
          }
          for (const message of batch) deliver(message);
          expect(receiver.waiting).toBeLessThanOrEqual(receiverCapacity);
          for (let turn = 0; turn < consumerPace && receiver.waiting > 0; turn++) {
            receiver.consume();
            consumed++;
            if (receiver.creditDue) publishCredit();
          }
        }
        expect(arrived).toEqual(Array.from({ length: chunks }, (_, index) => index));
        expect(consumed).toBe(chunks);
      },
    ),
    { numRuns: 300 },
  );
});
