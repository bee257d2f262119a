import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import t from 'tap';

import type { IpAddress } from '../../src/core/address.ts';
import type { GatewayAddress } from '../../src/core/workload.ts';
import { key, NETWORK } from '../state/build.ts';
import { ask, rigFor } from './ask.ts';
import { connectStream } from './rig.ts';

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

t.test(
  'drain: running requests are answered, idle connections end, tunnels hear of it',
  async (t) => {
    const waiting: ServerResponse[] = [];
    const app = createServer((request, response) => {
      if (request.url === '/slow') waiting.push(response);
      else response.end('ok');
    });
    const rig = await rigFor(t, [app], ([port = 0]) => ({
      apps: [{ name: 'app', ports: [port] }],
    }));
    const idle = await rig.open('app');
    idle.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n');
    await once(idle, 'data');
    const slow = ask(await rig.open('app'), { path: '/slow' });
    while (waiting.length === 0) await pause(10);
    const session = await rig.session();
    const ended = once(idle, 'end');
    rig.waypoint.drain();
    await ended;
    idle.end();
    while (rig.waypoint.openCount > 1) await pause(10);
    t.equal(rig.waypoint.openCount, 1, 'the one that is being served');
    while (session.state === 'open') await pause(10);
    t.not(session.state, 'open', 'GOAWAY has come');
    await t.rejects(connectStream(session, 'x'), 'and no stream is opened any more');
    waiting[0]?.end('late');
    t.match(await slow, { status: 200, body: 'late', headers: { connection: 'close' } });
    while (rig.waypoint.openCount > 0) await pause(10);
    t.pass('nothing is left');
  },
);

t.test('a route to nowhere, no route, no endpoint: each has its status and flag', async (t) => {
  const app = createServer((_, response) => response.end('ok'));
  const rig = await rigFor(t, [app], ([port = 0]) => ({
    apps: [
      { name: 'app', ports: [port] },
      { name: 'empty', ports: [] },
      { name: 'refusing', ports: [1] },
    ],
  }));
  t.match(await ask(await rig.open('empty')), { status: 503 });
  t.match(await ask(await rig.open('refusing')), { status: 503 });
  await rig.recorded(2);
  t.match(rig.records, [
    { flag: 'NO_ENDPOINT', errorCode: 'MESH_NO_HEALTHY_ENDPOINT', attempts: 0 },
    { flag: 'CONNECT', errorCode: 'MESH_CONNECT_FAILED' },
  ]);
});

t.test('a service that is not bound here is not served', async (t) => {
  const app = createServer((_, response) => response.end('ok'));
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  const session = await rig.session();
  t.teardown(() => session.destroy());
  await t.rejects(connectStream(session, '10.96.9.9:80'), /status 503/);
  rig.plans.apply([], ['shop/app.shop.svc.cluster.local']);
  await t.rejects(connectStream(session, `${rig.vip('app')}:80`), /status 400/);
});

t.test('T49 a pod is served when it declares this waypoint, not another one', async (t) => {
  const app = createServer((_, response) => response.end('ok'));
  const rig = await rigFor(t, [app], ([port = 0]) => ({
    apps: [
      { name: 'app', ports: [port] },
      { name: 'waypoint', ports: [] },
      { name: 'other', ports: [] },
    ],
  }));
  const session = await rig.session();
  t.teardown(() => session.destroy());
  const [pod] = [...rig.state.services.endpoints(key('app'))];
  if (pod === undefined) throw new Error('No endpoint');
  const { port } = app.address() as AddressInfo;
  const declare = (target: GatewayAddress['target'] | undefined): Promise<unknown> => {
    const waypoint = target && { target, hbonePort: 15_008 };
    rig.state.applyAddresses({ workloads: [{ ...pod, waypoint }] });
    return connectStream(session, `127.0.0.1:${port}`);
  };
  const host = (namespace: string, hostname: string) =>
    ({ kind: 'hostname', namespace, hostname }) as const;
  const at = (name: string) =>
    ({ kind: 'address', network: NETWORK, ip: rig.vip(name) as IpAddress }) as const;
  await declare(host('shop', 'waypoint.shop.svc.cluster.local'));
  await declare(at('waypoint'));
  for (const [why, target] of [
    ['none', undefined],
    ['of another name', host('shop', 'waypoint2.shop.svc.cluster.local')],
    ['of another namespace', host('bank', 'waypoint.bank.svc.cluster.local')],
    ['that cannot be used', host('shop', 'waypoint.shop.forbidden-waypoint.invalid')],
    ['at another address', at('other')],
  ] as const) {
    await t.rejects(declare(target), /status 400/, why);
  }
});
