import t, { type Test } from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { ObjectCondition, ObjectKey } from '../../src/controlplane/objects.ts';
import {
  createEventRecorder,
  EVENTS_BURST,
  SERIES_PERIOD_MS,
  type EventRecorder,
} from '../../src/kubernetes/event-recorder.ts';
import { eventually, startFakeApi, type FakeApi, type SeenRequest } from './fake-api.ts';

interface Run {
  readonly clock: FakeClock;
  readonly api: FakeApi;
  readonly recorder: EventRecorder;
  readonly troubles: ObjectCondition[];
  readonly writes: () => SeenRequest[];
  leads: boolean;
  exists: boolean;
  answer: number;
}

async function start(t: Test): Promise<Run> {
  const clock = createFakeClock();
  const api = await startFakeApi(t, clock);
  const troubles: ObjectCondition[] = [];
  const run = { clock, api, troubles, leads: true, exists: true, answer: 201 };
  api.intercept = ({ method }) => {
    if (method !== 'GET') return { status: run.answer, body: {} };
    return { status: 200, body: { items: run.exists ? [{ metadata: { uid: 'uid-1' } }] : [] } };
  };
  const recorder = createEventRecorder({
    clock,
    logger: createNullLogger(),
    client: api.client,
    instance: 'controller-1',
    leads: () => run.leads,
    troubles: () => troubles,
  });
  t.teardown(() => recorder[Symbol.asyncDispose]());
  const writes = (): SeenRequest[] => api.requests.filter(({ method }) => method !== 'GET');
  return Object.assign(run, { recorder, writes });
}

function trouble(
  name: string,
  message: string = 'Node "n" cannot capture it: no namespace',
): ObjectCondition {
  return { key: `Pod/shop/${name}` as ObjectKey, reason: 'NotCaptured', message };
}

async function rounds(run: Run, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    await run.clock.advance(2_000);
    for (let turn = 0; turn < 40; turn++) await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

t.test('a trouble is one Event that describe finds, then a series', async (t) => {
  const run = await start(t);
  run.troubles.push(trouble('web'));
  run.recorder.poke();
  await rounds(run, 1);
  await eventually('the Event', () => run.writes().length === 1);
  const [created] = run.writes();
  t.equal(created?.path, '/apis/events.k8s.io/v1/namespaces/shop/events');
  t.match(created?.body, {
    metadata: { name: /^web\.[0-9a-f]{16}$/, namespace: 'shop' },
    type: 'Warning',
    reason: 'NotCaptured',
    note: 'Node "n" cannot capture it: no namespace',
    reportingController: 'nodemesh.dev/controller',
    reportingInstance: 'controller-1',
    regarding: { kind: 'Pod', namespace: 'shop', name: 'web', uid: 'uid-1' },
    eventTime: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/,
  });
  for (let i = 0; i < 3; i++) {
    run.recorder.poke();
    await rounds(run, 1);
  }
  t.equal(run.writes().length, 1, 'going on is no news');
  await run.clock.advance(SERIES_PERIOD_MS);
  await rounds(run, 1);
  await eventually('the series', () => run.writes().length === 2);
  t.match(run.writes()[1], { method: 'PATCH', body: { series: { count: 2 } } });
  run.troubles.length = 0;
  run.recorder.poke();
  await rounds(run, 1);
  run.troubles.push(trouble('web'));
  run.recorder.poke();
  await rounds(run, 1);
  await eventually('it begins again', () => run.writes().length === 3);
});

t.test('the next leader goes on with the same Event', async (t) => {
  const run = await start(t);
  run.leads = false;
  run.troubles.push(trouble('web'));
  run.recorder.poke();
  await rounds(run, 2);
  t.equal(run.writes().length, 0, 'only the leader writes');
  run.leads = true;
  run.answer = 409;
  run.api.intercept = ({ method }) => {
    if (method === 'GET') return { status: 200, body: { items: [{ metadata: { uid: 'u' } }] } };
    return { status: method === 'POST' ? 409 : 200, body: {} };
  };
  run.recorder.poke();
  await rounds(run, 1);
  await eventually('the series', () => run.writes().length === 2);
  t.match(run.writes()[1]?.path, /^\/apis\/events.k8s.io\/v1\/namespaces\/shop\/events\/web\./);
});

t.test('a flood is bounded, and told in the end; what is gone is left out', async (t) => {
  const run = await start(t);
  for (let i = 0; i < EVENTS_BURST + 20; i++) run.troubles.push(trouble(`pod-${i}`));
  run.recorder.poke();
  await rounds(run, 1);
  await eventually('the burst', () => run.writes().length >= EVENTS_BURST);
  t.ok(run.writes().length < EVENTS_BURST + 10, `${run.writes().length} at once`);
  for (let i = 0; i < 12; i++) await rounds(run, 1);
  await eventually('all', () => run.writes().length === EVENTS_BURST + 20);
  run.exists = false;
  run.troubles.push(trouble('gone'));
  run.recorder.poke();
  await rounds(run, 2);
  t.equal(run.writes().length, EVENTS_BURST + 20);
});
