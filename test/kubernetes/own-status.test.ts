import t, { type Test } from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { ObjectCondition, ObjectKey } from '../../src/controlplane/objects.ts';
import { createOwnStatus, type OwnStatus } from '../../src/kubernetes/own-status.ts';
import type { WatchedKind } from '../../src/kubernetes/watched-kinds.ts';
import { eventually, startFakeApi, type FakeApi } from './fake-api.ts';

const KIND: WatchedKind = {
  group: 'nodemesh.dev',
  version: 'v1alpha1',
  plural: 'authorizationpolicies',
  kind: 'AuthorizationPolicy',
  required: true,
};
const PATH = '/apis/nodemesh.dev/v1alpha1/namespaces/shop/authorizationpolicies/web/status';

interface Run {
  readonly clock: FakeClock;
  readonly api: FakeApi;
  readonly status: OwnStatus;
  readonly said: ObjectCondition[];
  leads: boolean;
  refuse: number | undefined;
}

async function start(t: Test): Promise<Run> {
  const clock = createFakeClock();
  const api = await startFakeApi(t, clock);
  const said: ObjectCondition[] = [];
  const run = { clock, api, said, leads: true, refuse: undefined as number | undefined };
  api.intercept = () => ({ status: run.refuse ?? 200, body: {} });
  const status = createOwnStatus({
    clock,
    logger: createNullLogger(),
    client: api.client,
    leads: () => run.leads,
    conditions: () => said,
  });
  t.teardown(() => status[Symbol.asyncDispose]());
  return Object.assign(run, { status });
}

function policy(generation: number, conditions: readonly object[] = []): object {
  return { metadata: { name: 'web', namespace: 'shop', generation }, status: { conditions } };
}

function lastCondition({ api }: Run): Record<string, unknown> | undefined {
  const { status } = (api.requests.at(-1)?.body ?? {}) as {
    status?: { conditions?: Record<string, unknown>[] };
  };
  return status?.conditions?.[0];
}

async function round(run: Run, writes: number): Promise<void> {
  await run.clock.advance(300);
  await eventually(`${writes} writes`, () => run.api.requests.length === writes);
  await run.clock.advance(300);
  const count = run.api.requests.length;
  if (count !== writes) throw new Error(`${count} writes, not ${writes}`);
}

t.test('what is in force says so, once, under a name of its own', async (t) => {
  const run = await start(t);
  run.status.note(KIND, policy(3), undefined);
  await round(run, 1);
  const [request] = run.api.requests;
  t.equal(request?.method, 'PATCH');
  t.equal(request?.path, PATH);
  t.equal(request?.contentType, 'application/apply-patch+yaml');
  t.equal(request?.query.get('fieldManager'), 'nodemesh-controller-status');
  t.match(lastCondition(run), {
    type: 'Accepted',
    status: 'True',
    reason: 'Accepted',
    observedGeneration: 3,
  });
  run.status.poke();
  await round(run, 1);
  const mine = lastCondition(run);
  t.match(mine?.['lastTransitionTime'], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  run.status.note(KIND, policy(3, [{ type: 'Other', status: 'False' }, mine ?? {}]), undefined);
  await round(run, 1);
  run.status.note(KIND, policy(4, [mine ?? {}]), undefined);
  await round(run, 2);
  t.match(lastCondition(run), { observedGeneration: 4 });
  t.equal(
    lastCondition(run)?.['lastTransitionTime'],
    mine?.['lastTransitionTime'],
    'nothing turned',
  );
});

t.test('what is wrong says what, and whether anything is in force', async (t) => {
  const run = await start(t);
  const problem = 'spec.action must be one of ALLOW, DENY, AUDIT';
  run.status.note(KIND, policy(1), { problem, effect: undefined });
  await round(run, 1);
  t.match(lastCondition(run), {
    status: 'False',
    reason: 'Invalid',
    message: `${problem}; it is not in force`,
  });
  run.status.note(KIND, policy(1), { problem, effect: 'it denies' });
  await round(run, 2);
  t.match(lastCondition(run), { message: `${problem}; until it can be read it denies` });
  run.status.note(KIND, policy(2), undefined);
  await round(run, 3);
  run.status.note(KIND, policy(3), { problem, effect: 'it denies' });
  await round(run, 4);
  t.match(lastCondition(run), { message: /the last good version stays in force/ });
  const anew = policy(1) as { metadata: object };
  const other = { ...anew, metadata: { ...anew.metadata, uid: 'another' } };
  run.status.note(KIND, other, { problem, effect: 'it denies' });
  await round(run, 5);
  t.match(lastCondition(run), { message: /until it can be read it denies/ }, 'made anew');
  run.status.note(KIND, policy(4), undefined);
  const key = 'AuthorizationPolicy/shop/web' as ObjectKey;
  run.said.push({ key, reason: 'NeedsWaypoint', message: 'needs a waypoint' });
  await round(run, 6);
  t.match(lastCondition(run), { status: 'False', reason: 'NeedsWaypoint' });
  run.said[0] = { key, reason: 'L7Ignored', message: 'paths are ignored' };
  run.status.poke();
  await round(run, 7);
  t.match(lastCondition(run), { status: 'True', reason: 'L7Ignored' });
});

t.test('only the leader writes; a refusal is tried again; what is gone is let go', async (t) => {
  const run = await start(t);
  run.leads = false;
  run.status.note(KIND, policy(1), undefined);
  await round(run, 0);
  run.leads = true;
  run.refuse = 500;
  run.status.poke();
  await round(run, 1);
  run.refuse = undefined;
  await run.clock.advance(5_000);
  await round(run, 2);
  run.refuse = 404;
  run.status.note(KIND, policy(2), undefined);
  await round(run, 3);
  run.refuse = undefined;
  run.status.poke();
  await round(run, 3);
});
