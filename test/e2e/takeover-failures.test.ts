/** What must not go wrong when a take-over goes wrong, and when a pod leaves the mesh while nobody is there. */

import { rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

import t from 'tap';

import {
  DB,
  describeLoad,
  probeFrom,
  proxyOn,
  startTraffic,
  stopTraffic,
} from '../../src/demo/actions.ts';
import { DEMO_PODS } from '../../src/demo/demo.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import {
  countServed,
  createTestMesh,
  reasonToSkipMesh,
  shopNamespace,
  untilCaptured,
} from './harness.ts';

const skip = reasonToSkipMesh();

t.test(
  'F22 a successor that leaves half-way, or never gets a certificate, costs no connection',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    const { mesh, dir, proxies } = running;
    const path = join(dir, 'node-b', 'run', 'supervisor.sock');
    const old = proxyOn(running, 'node-b');

    const halfway = connect(path);
    halfway.on('error', () => {});
    const uid = DEMO_PODS.find(({ name }) => name === 'db')?.uid;
    halfway.write(`${JSON.stringify({ serving: uid })}\n`);
    // By its listeners: what has a tunnel goes on in it.
    await until('db is released', 5000, async () => (await countServed(running)) < 0);
    halfway.destroy();
    await untilCaptured(running, 4);
    t.ok((await probeFrom(running, 'web', DB)).ok, 'db is served again');

    mesh.controller?.kill('SIGKILL');
    await mesh.controller?.exited;
    await startTraffic(running, 'load');
    const keyless = mesh.startNode('node-b', { NODEMESH_KEY_DIR: '' });
    await wait(3000);
    keyless.process.kill('SIGKILL');
    await keyless.process.exited;
    await wait(500);
    const load = await stopTraffic(running, 'load');
    t.same(load.errors, [], describeLoad(load));

    await mesh.startController();
    const successor = mesh.startNode('node-b');
    await mesh.waitHandedOver(old, successor);
    proxies.set('node-b', successor);
    await untilCaptured(running, 4);
    t.ok((await probeFrom(running, 'web', DB)).ok, 'the next successor takes over');
  },
);

t.test(
  'F23 pods that leave the mesh while their node proxy is gone are reachable once it is back',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    const { mesh, dir } = running;
    const old = proxyOn(running, 'node-b');
    old.process.kill('SIGKILL');
    await old.process.exited;
    await until('db is refused, not leaked', 5000, async () => {
      return !(await probeFrom(running, 'web', DB, 500)).ok;
    });
    mesh.writeManifest('namespace.yaml', shopNamespace(false));
    rmSync(join(dir, 'node-b', 'state'), { recursive: true });
    running.proxies.set('node-b', mesh.startNode('node-b'));
    const ms = await until('db is reached', 20_000, async () => {
      return (await probeFrom(running, 'web', DB, 500)).ok;
    });
    t.ok(ms < 20_000, `reached ${Math.round(ms)} ms after the start`);
  },
);
