import t from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { HEARTBEAT_MS, type ToChild, type ToSupervisor } from '../../src/node/messages.ts';
import {
  createSupervisor,
  STALL_KILL_MS,
  type ChildHandlers,
  type Supervisor,
} from '../../src/node/supervisor.ts';

interface FakeChild {
  readonly role: 'agent' | 'worker';
  readonly slot: number;
  readonly pid: number;
  readonly handlers: ChildHandlers;
  readonly received: ToChild[];
  readonly killed: string[];
  beating: boolean;
}

interface Rig {
  readonly clock: FakeClock;
  readonly supervisor: Supervisor;
  readonly children: FakeChild[];
  /** Descriptor calls in order: `dup PID:FD`, `shutdown FD`, `close FD`. */
  readonly calls: string[];
  readonly living: (role: 'agent' | 'worker', slot?: number) => FakeChild;
  readonly say: (child: FakeChild, message: ToSupervisor) => void;
}

const POD = '00000000-0000-4000-8000-000000000001' as PodUid;

function createRig(workerCount: number): Rig {
  const clock = createFakeClock();
  const children: FakeChild[] = [];
  const calls: string[] = [];
  let nextPid = 100;
  let nextFd = 1000;
  const supervisor = createSupervisor({
    clock,
    random: createSeededRandom(1),
    logger: createNullLogger(),
    ownPid: 1,
    workerCount,
    descriptors: {
      duplicateFrom(pid, fd) {
        calls.push(`dup ${pid}:${fd}`);
        return nextFd++;
      },
      shutdown: (fd) => void calls.push(`shutdown ${fd}`),
      close: (fd) => void calls.push(`close ${fd}`),
    },
    spawn(role, slot, handlers) {
      const child: FakeChild = {
        role,
        slot,
        pid: nextPid++,
        handlers,
        received: [],
        killed: [],
        beating: true,
      };
      children.push(child);
      return {
        pid: child.pid,
        send: (message) => void child.received.push(message),
        kill(signal) {
          child.killed.push(signal);
          child.beating = false;
          handlers.onExit(signal);
        },
      };
    },
  });
  clock.every(HEARTBEAT_MS, () => {
    for (const child of children) {
      if (child.beating) child.handlers.onMessage({ kind: 'heartbeat' });
    }
  });
  return {
    clock,
    supervisor,
    children,
    calls,
    living(role, slot = 0) {
      const child = children.findLast(
        (candidate) =>
          candidate.role === role && candidate.slot === slot && candidate.killed.length === 0,
      );
      if (child === undefined) throw new Error(`no living ${role} ${slot}`);
      return child;
    },
    say: (child, message) => child.handlers.onMessage(message),
  };
}

const listening = (fd: number, port = 15_008): ToSupervisor => ({
  kind: 'listening',
  listener: { pod: POD, port, netnsInode: 1, fd },
});

t.test(
  'F20 a dead worker is replaced at once and its heir gets what no other serves',
  async (t) => {
    const { clock, supervisor, living, say, calls, children } = createRig(2);
    await clock.advance(500);
    const victim = living('worker', 0);
    say(victim, listening(7));
    t.same(calls, [`dup ${victim.pid}:7`]);
    victim.killed.push('crash');
    victim.beating = false;
    victim.handlers.onExit('SIGSEGV');
    await clock.advance(100);
    const heir = living('worker', 0);
    t.not(heir.pid, victim.pid);
    t.same(heir.received[0], {
      kind: 'start',
      slot: 0,
      supervisorPid: 1,
      held: [{ pod: POD, port: 15_008, netnsInode: 1, fd: 1000 }],
    });
    t.notOk(
      calls.some((call) => call.startsWith('close')),
      'the queue was kept',
    );
    t.equal(children.filter(({ slot, role }) => role === 'worker' && slot === 1).length, 1);
    supervisor.stop();
  },
);

t.test('F20 what waits for a dead worker moves to another that serves the pod', async (t) => {
  const { clock, supervisor, living, say, calls } = createRig(2);
  await clock.advance(500);
  const victim = living('worker', 0);
  say(victim, listening(7));
  say(living('worker', 1), { kind: 'serving', pods: [POD] });
  victim.killed.push('crash');
  victim.beating = false;
  victim.handlers.onExit('SIGKILL');
  t.same(calls.slice(1), ['shutdown 1000', 'close 1000']);
  await clock.advance(100);
  t.match(living('worker', 0).received[0], { kind: 'start', held: [] }, 'the heir makes new ones');
  supervisor.stop();
});

t.test('a worker that keeps dying is started with growing delays', async (t) => {
  const { clock, supervisor, children } = createRig(1);
  const starts = (): number => children.filter(({ role }) => role === 'worker').length;
  for (let round = 0; round < 200; round++) {
    const last = children.findLast(({ role }) => role === 'worker');
    if (last?.killed.length === 0) {
      last.killed.push('crash');
      last.beating = false;
      last.handlers.onExit('exit code 1');
    }
    await clock.advance(100);
  }
  t.ok(starts() > 5 && starts() < 20, `${starts()} starts in 20 s`);
  supervisor.stop();
});

t.test(
  'F63 a stalled worker is taken out after a second and serves again when it is back',
  async (t) => {
    const { clock, supervisor, living, say, calls } = createRig(2);
    await clock.advance(500);
    const worker = living('worker', 0);
    say(worker, listening(7));
    worker.beating = false;
    await clock.advance(900);
    t.notOk(calls.includes('shutdown 1000'), 'not before a second');
    await clock.advance(600);
    t.ok(calls.includes('shutdown 1000'), 'its queue moves to the other worker');
    t.ok(supervisor.status().blockers.includes('worker 0 is suspended'));
    worker.beating = true;
    await clock.advance(500);
    t.same(worker.received.at(-1), { kind: 'relisten' });
    t.same(supervisor.status().workers[0]?.state, 'healthy');
    t.same(worker.killed, []);
    supervisor.stop();
  },
);

t.test('F63 a worker silent for ten seconds is killed and replaced', async (t) => {
  const { clock, supervisor, living } = createRig(2);
  await clock.advance(500);
  const worker = living('worker', 1);
  worker.beating = false;
  await clock.advance(STALL_KILL_MS - 500);
  t.same(worker.killed, []);
  await clock.advance(1500);
  t.same(worker.killed, ['SIGKILL']);
  t.not(living('worker', 1).pid, worker.pid);
  supervisor.stop();
});

t.test('two stalled workers are never taken out or killed at once', async (t) => {
  const { clock, supervisor, living, say, calls } = createRig(2);
  await clock.advance(500);
  const [first, second] = [living('worker', 0), living('worker', 1)];
  say(first, listening(7));
  say(second, listening(8));
  first.beating = false;
  second.beating = false;
  await clock.advance(3000);
  t.equal(calls.filter((call) => call.startsWith('shutdown')).length, 1);
  await clock.advance(STALL_KILL_MS - 3000 + 400);
  t.equal(first.killed.length + second.killed.length, 1, 'one at a time');
  supervisor.stop();
});

t.test('a lone worker that stalls keeps its listeners', async (t) => {
  const { clock, supervisor, living, say, calls } = createRig(1);
  await clock.advance(500);
  const worker = living('worker');
  say(worker, listening(7));
  worker.beating = false;
  await clock.advance(5000);
  t.notOk(calls.some((call) => call.startsWith('shutdown')));
  await clock.advance(6000);
  t.same(worker.killed, ['SIGKILL'], 'and is killed all the same');
  supervisor.stop();
});

t.test('F62 a supervisor that was late itself accuses nobody', async (t) => {
  const { clock, supervisor, children } = createRig(2);
  await clock.advance(500);
  // The whole machine stands still for six seconds: no heartbeat is read and no check runs meanwhile.
  for (const child of children) child.beating = false;
  const innerNowMs = clock.nowMs.bind(clock);
  Object.assign(clock, { nowMs: () => innerNowMs() + 6000 });
  await clock.advance(250);
  for (const child of children) child.beating = true;
  await clock.advance(500);
  t.ok(children.every(({ killed }) => killed.length === 0));
  t.ok(supervisor.status().workers.every(({ state }) => state === 'healthy'));
  supervisor.stop();
});

t.test('readiness names what is missing, per pod and per worker', async (t) => {
  const { clock, supervisor, living, say } = createRig(2);
  t.match(supervisor.status().blockers, ['agent has not reported yet']);
  await clock.advance(500);
  say(living('agent'), { kind: 'agent-state', captured: [POD], blockers: [] });
  say(living('worker', 0), { kind: 'serving', pods: [POD] });
  t.same(supervisor.status().blockers, [`pod ${POD} is not served by every worker`]);
  say(living('worker', 1), { kind: 'serving', pods: [POD] });
  t.same(supervisor.status().blockers, []);
  t.same(supervisor.status().served, [POD]);
  supervisor.stop();
});

t.test('F22 release closes a pod everywhere, also for listeners that come later', async (t) => {
  const { clock, supervisor, living, say, calls } = createRig(2);
  await clock.advance(500);
  const worker = living('worker', 0);
  say(worker, listening(7));
  supervisor.release(POD);
  t.same(worker.received.at(-1), { kind: 'release', pod: POD });
  t.ok(calls.includes('close 1000'));
  say(worker, listening(9));
  t.equal(calls.filter((call) => call.startsWith('dup')).length, 1, 'no duplicate any more');
  supervisor.stop();
});

t.test('drain ends when every worker has drained, and at the deadline at the latest', async (t) => {
  const first = createRig(2);
  await first.clock.advance(500);
  let done = false;
  void first.supervisor.drain(60_000).then(() => (done = true));
  await first.clock.advance(1000);
  first.say(first.living('worker', 0), { kind: 'drained' });
  await first.clock.advance(0);
  t.notOk(done);
  first.say(first.living('worker', 1), { kind: 'drained' });
  await first.clock.advance(0);
  t.ok(done);

  const second = createRig(1);
  await second.clock.advance(500);
  let forced = false;
  void second.supervisor.drain(1000).then(() => (forced = true));
  await second.clock.advance(7000);
  t.ok(forced);
});

t.test('a proxy that drains holds no listener, also of pods it never released', async (t) => {
  const { clock, supervisor, living, say, calls } = createRig(2);
  await clock.advance(500);
  say(living('worker', 0), listening(7));
  say(living('worker', 1), listening(8));
  void supervisor.drain(60_000);
  t.same(living('worker', 1).received.at(-1), { kind: 'drain', deadlineMs: 60_000 });
  t.same(calls.slice(-2), ['close 1000', 'close 1001']);
  say(living('worker', 0), listening(9));
  t.equal(calls.filter((call) => call.startsWith('dup')).length, 2, 'no duplicate any more');
  supervisor.stop();
});

t.test('a new agent of a retired proxy is told so', async (t) => {
  const { clock, supervisor, living } = createRig(1);
  await clock.advance(500);
  supervisor.retire();
  const agent = living('agent');
  t.same(agent.received, [{ kind: 'retire' }]);
  agent.killed.push('crash');
  agent.beating = false;
  agent.handlers.onExit('SIGKILL');
  await clock.advance(200);
  t.same(living('agent').received, [{ kind: 'retire' }]);
  supervisor.stop();
});

t.test('F22 a successor that dies half-way: every released pod is served again', async (t) => {
  const { clock, supervisor, living, say, calls } = createRig(2);
  await clock.advance(500);
  const worker = living('worker', 0);
  say(worker, listening(7));
  supervisor.release(POD);
  supervisor.reclaim();
  t.same(worker.received.at(-1), { kind: 'reclaim' });
  t.same(living('worker', 1).received.at(-1), { kind: 'reclaim' });
  say(worker, listening(9));
  t.equal(calls.at(-1), `dup ${worker.pid}:9`, 'its new listeners are kept again');
  supervisor.stop();
});

t.test(
  'a worker that dies as the drain begins has no heir to take from the successor',
  async (t) => {
    const { clock, supervisor, living, children } = createRig(2);
    await clock.advance(500);
    const victim = living('worker', 0);
    victim.killed.push('crash');
    victim.beating = false;
    victim.handlers.onExit('SIGSEGV');
    const count = children.length;
    void supervisor.drain(60_000);
    await clock.advance(10_000);
    t.equal(children.length, count);
    supervisor.stop();
  },
);

t.test('what a dead worker had still said is not taken for its heir', async (t) => {
  const { clock, supervisor, living } = createRig(2);
  await clock.advance(500);
  const victim = living('worker', 0);
  victim.killed.push('crash');
  victim.beating = false;
  victim.handlers.onExit('SIGSEGV');
  victim.handlers.onMessage({ kind: 'heartbeat' });
  t.equal(supervisor.status().workers[0]?.state, 'dead');
  supervisor.stop();
});
