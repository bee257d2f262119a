/**
 * Kubelet probes under STRICT: what the node's own processes send to a declared probe port arrives, what comes
 * from outside through the node, masqueraded to the node's address, does not, nor does a forged source (T28).
 */

import { spawnSync } from 'node:child_process';

import t from 'tap';

import { DB, podNamed, probeFrom } from '../../src/demo/actions.ts';
import { until } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, shopNamespace, untilCaptured } from './harness.ts';
import type { TestMesh } from './harness.ts';

const STRICT = `apiVersion: nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;
const PROBED_PORT = 5432;
const OTHER_PORT = 15_021;

/** Runs a program in a namespace of the mesh. */
function inNamespace(netns: string, ...command: readonly string[]): { ok: boolean; text: string } {
  const done = spawnSync('nsenter', [`--net=${netns}`, ...command], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  return { ok: done.status === 0, text: done.stdout + done.stderr };
}

/** Whether a connection to db's application, from a namespace and maybe a source of its own, is greeted. */
function isGreeted(netns: string, host: string, port: number, source?: string): boolean {
  const script = `
    const { connect } = require('node:net');
    const socket = connect({ host: '${host}', port: ${port}${source ? `, localAddress: '${source}'` : ''} });
    socket.on('error', () => process.exit(1));
    socket.on('data', (chunk) => process.exit(String(chunk).startsWith('220 db') ? 0 : 2));
    setTimeout(() => process.exit(3), 2000);`;
  return inNamespace(netns, process.execPath, '-e', script).ok;
}

/** The demo's pods, with a readiness probe on db. */
function withProbe(running: TestMesh): string {
  return running.mesh
    .readManifest('pods.yaml')
    .replace(
      'ports: [{ name: tcp-db, containerPort: 5432 }]',
      `ports: [{ name: tcp-db, containerPort: 5432 }]\n      readinessProbe: { tcpSocket: { port: ${PROBED_PORT} } }`,
    );
}

t.test(
  'T28 the node probes a declared port under STRICT, masqueraded and forged clients do not reach it',
  { skip: reasonToSkipMesh() },
  async (t) => {
    const running = await createTestMesh(t, { manifests: { 'strict.yaml': STRICT } });
    const { mesh } = running;
    const { place } = podNamed(running, 'db');
    const { node, ip, ip6 } = place;
    await until('STRICT applies', 5000, () => !isGreeted(node.netns, ip, PROBED_PORT));
    t.pass('without a declared probe the node is refused as everybody');

    mesh.writeManifest('pods.yaml', withProbe(running));
    await until('the probe is let through', 10_000, () => isGreeted(node.netns, ip, PROBED_PORT));
    t.ok(isGreeted(node.netns, ip6, PROBED_PORT), 'over IPv6 too');
    t.notOk(isGreeted(node.netns, ip, OTHER_PORT), 'another port is not open');

    // Outside: the hub, through the node, with the node's address as source, as a NodePort has it.
    const nat = [
      'table ip outside {',
      '  chain out { type nat hook postrouting priority srcnat; policy accept;',
      `    iifname eth0 ip daddr ${ip} masquerade`,
      '  }',
      '}',
    ].join('\n');
    const loaded = spawnSync('nsenter', [`--net=${node.netns}`, 'nft', '-f', '-'], { input: nat });
    t.equal(loaded.status, 0, 'masquerading is set up');
    const { hub } = mesh.topology;
    t.notOk(isGreeted(hub.netns, ip, PROBED_PORT), 'a masqueraded client is refused');
    t.notOk((await probeFrom(running, 'outsider', DB, 2000)).ok, 'a pod outside is refused');

    // A neighbour on the same bridge and a machine behind the node forge the reserved source.
    const neighbour = mesh.topology.addPod('forger', node, 13).netns;
    for (const [name, netns] of [
      ['neighbour', neighbour],
      ['outside', hub.netns],
    ] as const) {
      inNamespace(netns, 'ip', 'addr', 'add', '169.254.7.127/32', 'dev', 'lo');
      t.notOk(isGreeted(netns, ip, PROBED_PORT, '169.254.7.127'), `forged by ${name}`);
    }
    t.ok(isGreeted(node.netns, ip, PROBED_PORT), 'the probe still passes');
    t.ok((await probeFrom(running, 'web', DB)).ok, 'and so does the mesh');

    mesh.writeManifest('namespace.yaml', shopNamespace(false));
    await untilCaptured(running, 0);
    t.ok(isGreeted(node.netns, ip, PROBED_PORT), 'probes go on when the pod has left');
    await until('the node has no target left', 10_000, () => {
      const table = inNamespace(node.netns, 'nft', 'list', 'table', 'inet', 'nodemesh_probes');
      return table.ok && !table.text.includes(`${ip} . `);
    });
  },
);
