import { existsSync, mkdtempSync, renameSync, rmSync, statSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { PodUid } from '../../src/core/pod.ts';
import {
  awaitSuccessor,
  findPredecessor,
  parseMessage,
  removeDeadSockets,
} from '../../src/node/handover.ts';

const clock = createSystemClock();
const logger = createNullLogger();

t.test('F22 pods are handed over one by one, then all of it', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-handover-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'supervisor.sock');
  t.equal(await findPredecessor(path, clock, logger), undefined, 'nobody yet');
  const seen: string[] = [];
  const complete = Promise.withResolvers<void>();
  const old = await awaitSuccessor(path, 1, logger, {
    onServing: (pod) => void seen.push(pod),
    onComplete: () => complete.resolve(),
    onLost: () => void seen.push('lost'),
  });
  t.equal(statSync(path).mode & 0o777, 0o600);
  const predecessor = await findPredecessor(path, clock, logger);
  predecessor?.serving('pod-1' as PodUid);
  predecessor?.serving('pod-2' as PodUid);
  // The successor takes the path over before it says that it is complete.
  const next = await awaitSuccessor(path, 2, logger, {
    onServing: () => {},
    onComplete: () => {},
    onLost: () => {},
  });
  predecessor?.complete();
  await complete.promise;
  t.same(seen, ['pod-1', 'pod-2']);
  old.close();
  const current = await findPredecessor(path, clock, logger);
  t.ok(current, 'the successor answers there now');
  current?.complete();
  next.close();
});

t.test(
  'of several successors the first that is complete takes over; the others hear of it',
  async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'nodemesh-handover-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    const path = join(dir, 'supervisor.sock');
    const seen: string[] = [];
    const handlers = {
      onServing: (pod: PodUid) => void seen.push(pod),
      onComplete: () => void seen.push('complete'),
      onLost: () => void seen.push('lost'),
    };
    const old = await awaitSuccessor(path, 1, logger, handlers);
    const slow = await findPredecessor(path, clock, logger);
    const quick = await findPredecessor(path, clock, logger);
    const gone = Promise.withResolvers<void>();
    slow?.onGone(() => gone.resolve());
    quick?.onGone(() => t.fail('it was complete itself'));
    slow?.serving('pod-1' as PodUid);
    while (seen.length === 0) await new Promise((resolve) => void setImmediate(resolve));
    t.equal(old.isCurrent(), true);
    const next = await awaitSuccessor(path, 2, logger, handlers);
    t.equal(old.isCurrent(), false);
    quick?.complete();
    await gone.promise;
    t.same(seen, ['pod-1', 'complete'], 'nobody is lost');
    t.equal(next.isCurrent(), true);
    let late = false;
    slow?.onGone(() => (late = true));
    t.equal(late, true, 'whoever asks later hears it at once');
    rmSync(path);
    t.equal(next.isCurrent(), false);
    old.close();
    next.close();
  },
);

t.test(
  'a successor that dies half-way, or speaks nonsense, leaves the proxy in service',
  async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'nodemesh-handover-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    const path = join(dir, 'supervisor.sock');
    let lost = Promise.withResolvers<void>();
    const server = await awaitSuccessor(path, 1, logger, {
      onServing: () => {},
      onComplete: () => t.fail('was taken over'),
      onLost: () => lost.resolve(),
    });
    t.teardown(() => server.close());
    for (const bytes of ['', 'nonsense\n', '{"serving":"../../etc"}\n', 'x'.repeat(100_000)]) {
      lost = Promise.withResolvers<void>();
      const socket = connect(path);
      socket.on('error', () => {});
      socket.end(`{"serving":"pod-1"}\n${bytes}`);
      await lost.promise;
      socket.destroy();
    }
    t.pass('each was noticed and refused');
  },
);

t.test(
  'who only looks whether a proxy is there is neither a successor nor lost, and hears nothing',
  async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'nodemesh-handover-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    const path = join(dir, 'supervisor.sock');
    const seen: string[] = [];
    const server = await awaitSuccessor(path, 1, logger, {
      onServing: (pod) => void seen.push(pod),
      onComplete: () => void seen.push('complete'),
      onLost: () => void seen.push('lost'),
    });
    t.teardown(() => server.close());
    const looking = await findPredecessor(path, clock, logger);
    looking?.onGone(() => t.fail('it left by itself'));
    looking?.leave();
    const successor = await findPredecessor(path, clock, logger);
    successor?.serving('pod-1' as PodUid);
    while (seen.length === 0) await new Promise((resolve) => void setImmediate(resolve));
    t.same(seen, ['pod-1']);
    successor?.leave();
    while (seen.length === 1) await new Promise((resolve) => void setImmediate(resolve));
    t.same(seen, ['pod-1', 'lost'], 'but one that served is');
  },
);

t.test(
  'sockets that nobody answers on are removed, those of living processes are not',
  async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'nodemesh-handover-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    const living = createServer().listen(join(dir, 'worker-1.sock'));
    // A killed process leaves its file, as renaming it away from its server does.
    const killed = createServer().listen(join(dir, 'x'));
    renameSync(join(dir, 'x'), join(dir, 'agent-2.sock'));
    await new Promise((resolve) => void killed.close(resolve));
    t.ok(existsSync(join(dir, 'agent-2.sock')));
    removeDeadSockets(dir);
    while (existsSync(join(dir, 'agent-2.sock'))) {
      await new Promise((resolve) => void setImmediate(resolve));
    }
    t.ok(existsSync(join(dir, 'worker-1.sock')));
    living.close();
  },
);

t.test('hand-over messages are read strictly', (t) => {
  t.same(parseMessage('{"serving":"abc-1"}'), { kind: 'serving', pod: 'abc-1' });
  t.same(parseMessage('{"complete":true}'), { kind: 'complete' });
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (line) => {
      const message = parseMessage(line);
      return message === undefined || message.kind === 'complete' || message.pod.length <= 128;
    }),
  );
  t.end();
});
