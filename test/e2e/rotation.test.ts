/** The CA's root changes under load, and a CA plugged in from files signs for the mesh. */

import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import {
  describeLoad,
  holdCounts,
  holdOpen,
  linesOf,
  LONG_CONNECTIONS,
  proxyOn,
  startTraffic,
  stopTraffic,
  untilWire,
} from '../../src/demo/actions.ts';
import { until } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh } from './harness.ts';

const ROTATED = `apiVersion: nodemesh.dev/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: nodemesh-system }
spec: { rootRotation: 1 }
`;

t.test(
  'rotating the root under load fails no new connection and keeps the long ones',
  { skip: reasonToSkipMesh() },
  async (t) => {
    const running = await createTestMesh(t);
    const { mesh } = running;
    await holdOpen(running, 'long');
    await startTraffic(running, 'rotation');
    const [before] = mesh.trustedRoots();
    const generations = new Set<string>();
    mesh.writeManifest('mesh-config.yaml', ROTATED);
    await until('the new root is the only one', 30_000, () => {
      const now = mesh.trustedRoots();
      for (const root of now) generations.add(root);
      return now.length === 1 && now[0] !== before;
    });
    const load = await stopTraffic(running, 'rotation');
    t.equal(load.failed, 0, describeLoad(load));
    t.same(load.errors, []);
    t.equal(generations.size, 2, 'both roots were trusted at one time');
    t.match(await holdCounts(running, 'long'), { open: LONG_CONNECTIONS, lost: 0, wrong: 0 });
  },
);

t.test(
  'a proxy that drains beside its successor does not make the old root go too early',
  { skip: reasonToSkipMesh() },
  async (t) => {
    const running = await createTestMesh(t, { workers: 1 });
    const { mesh, proxies } = running;
    await holdOpen(running, 'long');
    for (const node of ['node-a', 'node-b']) {
      const successor = mesh.startNode(node);
      await mesh.waitHandedOver(proxies.get(node), successor);
      proxies.set(node, successor);
    }
    await startTraffic(running, 'rotation');
    const [before] = mesh.trustedRoots();
    mesh.writeManifest('mesh-config.yaml', ROTATED);
    await until('the new root is the only one', 30_000, () => {
      const now = mesh.trustedRoots();
      return now.length === 1 && now[0] !== before;
    });
    const load = await stopTraffic(running, 'rotation');
    t.same(load.errors, [], describeLoad(load));
    t.match(await holdCounts(running, 'long'), { open: LONG_CONNECTIONS, lost: 0, wrong: 0 });
    t.ok(linesOf(proxyOn(running, 'node-b'), 'renewing certificates').length > 0);
  },
);

t.test('a CA plugged in from files signs', { skip: reasonToSkipMesh('openssl') }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'nme-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  makeCa(folder);
  const running = await createTestMesh(t, {
    workers: 1,
    controllerSettings: { NODEMESH_CA_DIR: folder },
  });
  await untilWire(running, 'encrypted');
  const root = new X509Certificate(readFileSync(join(folder, 'root-cert.pem')));
  t.same(running.mesh.trustedRoots(), [root.fingerprint256.replaceAll(':', '')]);
});

/** A root and an intermediate for the mesh, in the files of a plugged-in CA. */
function makeCa(folder: string): void {
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  };
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const isCa = (pathLength: number): string[] => [
    '-addext',
    `basicConstraints=critical,CA:true,pathlen:${pathLength}`,
    '-addext',
    'keyUsage=critical,keyCertSign,cRLSign',
  ];
  const root = ['-keyout', 'root-key.pem', '-out', 'root-cert.pem', '-subj', '/O=Example/CN=root'];
  openssl('req', '-x509', ...newKey, ...root, '-days', '30', ...isCa(1));
  const ca = ['-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-subj', '/O=Example/CN=mesh'];
  const by = ['-CA', 'root-cert.pem', '-CAkey', 'root-key.pem'];
  openssl('req', '-x509', ...newKey, ...ca, ...by, '-days', '20', ...isCa(0));
  const pem = ['ca-cert.pem', 'root-cert.pem'].map((name) => readFileSync(join(folder, name)));
  writeFileSync(join(folder, 'cert-chain.pem'), Buffer.concat(pem));
}
