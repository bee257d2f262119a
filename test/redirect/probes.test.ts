/**
 * Kubelet probes on a node with two pods: one behind a routed veth, two on a bridge, as CNIs have them. What the
 * node's own processes send reaches declared probe ports; what is masqueraded or spoofed does not (T28).
 */

import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { MeshError } from '../../src/base/errors.ts';
import { unwrap } from '../../src/base/result.ts';
import { parseAddress } from '../../src/core/address.ts';
import { PROBE_SOURCE_IPV4, PROBE_SOURCE_IPV6 } from '../../src/core/pod.ts';
import { openPacketCapture } from '../../src/linux/capture.ts';
import { parseTcpFrame } from '../../src/linux/frames.ts';
import { openNamespace, type NetworkNamespace } from '../../src/linux/namespaces.ts';
import { loadNative } from '../../src/linux/native.ts';
import { attachPod } from '../../src/redirect/attach.ts';
import type { RedirectContext } from '../../src/redirect/context.ts';
import { createProbeRules, PROBE_TARGETS_MAX } from '../../src/redirect/probes.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';
import { describePod } from './pod-network.ts';
import { askOnce, attempt, serveIn } from './sockets-in.ts';

const skip = reasonToSkip('nft');
const target = (ip: string, port: number) => ({ ip: unwrap(parseAddress(ip)), port });

/** `node` routes between `web` and `evil` (each a veth), a bridge with `one` and `two`, and `world`. */
function setUpNode(t: Test) {
  const native = loadNative();
  const network = createTestNetwork();
  const open = (name: string): NetworkNamespace => openNamespace(native, network.add(name));
  const [node, web, evil, world, one, two] = ['node', 'web', 'evil', 'world', 'one', 'two'].map(
    open,
  );
  if (!node || !web || !evil || !world || !one || !two) throw new Error('unreachable');
  network.run('node', 'sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  for (const [i, name] of ['web', 'evil', 'world'].entries()) {
    network.join(
      { name: 'node', device: `n-${name}`, addresses: [`10.80.${i}.1/24`, `fd80:${i}::1/64`] },
      {
        name,
        device: 'eth0',
        addresses: [`10.80.${i}.2/24`, `fd80:${i}::2/64`],
        gateways: [`10.80.${i}.1`, `fd80:${i}::1`],
      },
    );
  }
  network.run('node', 'ip', 'link', 'add', 'br0', 'type', 'bridge');
  network.run('node', 'ip', 'addr', 'add', '10.80.9.1/24', 'dev', 'br0');
  network.run('node', 'ip', 'link', 'set', 'br0', 'up');
  for (const [i, name] of ['one', 'two'].entries()) {
    network.join(
      { name: 'node', device: `b-${name}`, addresses: [] },
      { name, device: 'eth0', addresses: [`10.80.9.${i + 2}/24`], gateways: ['10.80.9.1'] },
    );
    network.run('node', 'ip', 'link', 'set', `b-${name}`, 'master', 'br0');
  }
  const context: RedirectContext = {
    native,
    clock: createSystemClock(),
    logger: createNullLogger(),
    nodeNamespace: node,
  };
  t.teardown(() => {
    for (const namespace of [node, web, evil, world, one, two]) namespace.close();
    network.removeAll();
  });
  return { native, network, node, web, evil, world, one, two, context };
}

void t.test('probes from the node reach declared ports only (T28)', { skip }, async (t) => {
  const { native, network, node, web, evil, world, context } = setUpNode(t);
  const addresses = ['10.80.0.2', 'fd80:0::2'];
  const described = describePod(web.path, web.inode, addresses);
  const pod = { ...described.pod, probePorts: [8080] };
  const attached = await attachPod(context, { ...described, pod });
  const app = await serveIn(native, web, 8080, 'app');
  const closed = await serveIn(native, web, 8081, 'closed');

  for (const ip of addresses) {
    t.equal(await attempt(native, node, ip, 8080), 'ECONNREFUSED', 'no rule in the node yet');
  }
  const probes = createProbeRules(context);
  await probes.apply(addresses.map((ip) => target(ip, 8080)));
  await probes.apply(addresses.map((ip) => target(ip, 8080)));
  for (const ip of addresses) {
    t.equal(await askOnce(native, node, ip, 8080), 'app:hi', `a probe of ${ip}`);
    t.equal(await attempt(native, node, ip, 8081), 'ECONNREFUSED', 'another port');
    t.equal(await attempt(native, evil, ip, 8080), 'ECONNREFUSED', 'another pod');
  }
  t.same(
    app.arrivals.map(({ from }) => from),
    [PROBE_SOURCE_IPV4, PROBE_SOURCE_IPV6],
  );

  await t.test('another user of the node is no kubelet', async (t) => {
    const asNobody = createProbeRules(context, { kubeletUid: 65534 });
    await asNobody.apply(addresses.map((ip) => target(ip, 8080)));
    for (const ip of addresses) t.equal(await attempt(native, node, ip, 8080), 'ECONNREFUSED');
    await probes.apply(addresses.map((ip) => target(ip, 8080)));
  });

  await t.test('masqueraded NodePort traffic does not get the reserved source', async (t) => {
    network.feed(
      'node',
      `table inet kube {
        chain nodeports {
          type nat hook prerouting priority dstnat;
          tcp dport 30080 dnat ip to 10.80.0.2:8080
          tcp dport 30086 dnat ip6 to [fd80:0::2]:8080
        }
        chain outgoing {
          type nat hook postrouting priority srcnat;
          masquerade
        }
      }\n`,
      'nft',
      '-f',
      '-',
    );
    const capture = openPacketCapture(native, web, 'eth0');
    const before = app.arrivals.length;
    t.equal(await attempt(native, world, '10.80.2.1', 30080), 'ECONNREFUSED');
    t.equal(await attempt(native, world, 'fd80:2::1', 30086), 'ECONNREFUSED');
    t.equal(app.arrivals.length, before, 'the application heard nothing');
    const sources = capture.read().map((frame) => parseTcpFrame(frame));
    capture.close();
    const arrived = sources.filter((segment) => segment?.syn === true && !segment.ack);
    t.same(
      arrived.map((segment) => segment?.source),
      ['10.80.0.1', 'fd80::1'],
      'it arrived from the node’s own address',
    );
    for (const ip of addresses) {
      t.equal(await askOnce(native, node, ip, 8080), 'app:hi', 'probes win over masquerading');
    }
    network.run('node', 'nft', 'delete', 'table', 'inet', 'kube');
  });

  await t.test('the reserved source is refused from anyone else', async (t) => {
    network.run('evil', 'ip', 'addr', 'add', `${PROBE_SOURCE_IPV4}/32`, 'dev', 'eth0');
    network.run('evil', 'ip', 'addr', 'add', `${PROBE_SOURCE_IPV6}/128`, 'dev', 'eth0', 'nodad');
    const capture = openPacketCapture(native, web, 'eth0');
    const before = app.arrivals.length;
    for (const [ip, source] of [
      ['10.80.0.2', PROBE_SOURCE_IPV4],
      ['fd80:0::2', PROBE_SOURCE_IPV6],
    ] as const) {
      const options = { source: { address: source, port: 0 } };
      t.equal(await attempt(native, evil, ip, 8080, options), 'silence', `spoofed to ${ip}`);
    }
    t.equal(app.arrivals.length, before);
    // Ends of earlier probes may still come.
    const first = capture.read().filter((frame) => parseTcpFrame(frame)?.syn === true);
    t.equal(first.length, 0, 'no frame arrived');
    capture.close();
  });

  await probes.apply([]);
  t.equal(await attempt(native, node, '10.80.0.2', 8080), 'ECONNREFUSED', 'no target any more');
  await probes.remove();
  t.equal(network.run('node', 'nft', 'list', 'ruleset'), '');
  await probes.remove();
  await Promise.all([app.close(), closed.close()]);
  attached.close();
});

void t.test(
  'the reserved source is refused between pods of one bridge (T28)',
  { skip },
  async (t) => {
    const { native, network, node, one, two, context } = setUpNode(t);
    const described = describePod(one.path, one.inode, ['10.80.9.2']);
    const pod = { ...described.pod, probePorts: [8080] };
    const attached = await attachPod(context, { ...described, pod });
    const app = await serveIn(native, one, 8080, 'app');
    network.run('two', 'ip', 'addr', 'add', `${PROBE_SOURCE_IPV4}/32`, 'dev', 'eth0');
    const spoof = (): Promise<string> =>
      attempt(native, two, '10.80.9.2', 8080, { source: { address: PROBE_SOURCE_IPV4, port: 0 } });
    const capture = openPacketCapture(native, one, 'eth0');
    const spoofedFrames = (): number =>
      capture.read().filter((frame) => parseTcpFrame(frame)?.source === PROBE_SOURCE_IPV4).length;
    await spoof();
    t.ok(spoofedFrames() > 0, 'without the guard such frames arrive');
    const probes = createProbeRules(context);
    await probes.apply([target('10.80.9.2', 8080)]);
    t.equal(await spoof(), 'silence');
    t.equal(spoofedFrames(), 0, 'with it none does');
    t.equal(await askOnce(native, node, '10.80.9.2', 8080), 'app:hi', 'probes through the bridge');
    t.equal(await attempt(native, two, '10.80.9.2', 8080), 'ECONNREFUSED', 'as itself: captured');
    capture.close();
    await probes.remove();
    await app.close();
    attached.close();
  },
);

void t.test(
  'probe targets are bounded, and failures are MESH_RULES_FAILED',
  { skip },
  async (t) => {
    const { network, node, context } = setUpNode(t);
    const probes = createProbeRules(context);
    const many = Array.from({ length: PROBE_TARGETS_MAX + 1 }, (_, i) =>
      target(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, 80),
    );
    const code = (promise: Promise<unknown>): Promise<string> =>
      promise.then(
        () => 'resolved',
        (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
      );
    t.equal(await code(probes.apply(many)), 'MESH_LIMIT_EXCEEDED');
    t.equal(await code(probes.apply(many.slice(1))), 'resolved');
    const text = network.run(
      'node',
      'nft',
      'list',
      'set',
      'inet',
      'nodemesh_probes',
      'targets_ipv4',
    );
    t.equal(text.match(/ \. 80/g)?.length, PROBE_TARGETS_MAX);
    node.close();
    t.equal(await code(probes.apply([])), 'MESH_RULES_FAILED');
  },
);
