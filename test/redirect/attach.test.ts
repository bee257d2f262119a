/** Redirection of one pod in real network namespaces: what is captured, what is not, what survives. */

import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import { parseAddress } from '../../src/core/address.ts';
import { unwrap } from '../../src/base/result.ts';
import { shutdownDescriptor, descriptorOf } from '../../src/linux/descriptors.ts';
import { createListener } from '../../src/linux/sockets.ts';
import { openPacketCapture } from '../../src/linux/capture.ts';
import { parseTcpFrame } from '../../src/linux/frames.ts';
import { adoptPod, attachPod } from '../../src/redirect/attach.ts';
import type { RedirectContext } from '../../src/redirect/context.ts';
import { reasonToSkip } from '../support/network-namespace.ts';
import { FAMILIES, setUpPod } from './pod-network.ts';
import { ask, askOnce, attempt, closeBare, dialIn, serveIn } from './sockets-in.ts';

const skip = reasonToSkip('nft');

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'resolved',
    (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
  );
}

for (const family of FAMILIES) {
  void t.test(`redirection, ${family.name}`, { skip }, async (t) => {
    const { native, pod, out, context, captured, network } = setUpPod(t, family);
    const app = await serveIn(native, pod, 8080, 'app');
    const other = await serveIn(native, out, 9090, 'other');
    const before = await Promise.all(
      family.pod.flatMap((podIp, i) => [
        dialIn(native, out, podIp, 8080),
        dialIn(native, pod, family.out[i] ?? '', 9090),
      ]),
    );
    t.same(
      await Promise.all(before.map((socket) => ask(socket, '1'))),
      family.pod.flatMap(() => ['app:1', 'other:1']),
    );

    const attached = await attachPod(context, captured);
    t.same(await attached.check(), [], 'what was set stands');

    for (const [i, podIp] of family.pod.entries()) {
      const outIp = family.out[i] ?? '';
      t.equal(await attempt(native, pod, outIp, 9090), 'ECONNREFUSED', 'T31: no way out yet');
      t.equal(await attempt(native, out, podIp, 8080), 'ECONNREFUSED', 'T31: no way in yet');
    }
    t.equal(app.arrivals.length + other.arrivals.length, before.length, 'nobody new was let in');

    const outbound = await serveIn(native, pod, 15001, 'outbound', { ours: true });
    const inbound = await serveIn(native, pod, 15006, 'inbound', { ours: true });
    const tunnel = await serveIn(native, pod, 15008, 'tunnel', { ours: true });
    for (const [i, podIp] of family.pod.entries()) {
      const outIp = family.out[i] ?? '';
      t.equal(await askOnce(native, pod, outIp, 9090), 'outbound:hi');
      t.match(outbound.arrivals.at(-1), { wanted: `${outIp}:9090`, from: podIp });
      t.equal(await askOnce(native, pod, podIp, 8080), 'outbound:hi', 'T23: its own address too');
      t.match(outbound.arrivals.at(-1), { wanted: `${podIp}:8080` });
      t.equal(await askOnce(native, out, podIp, 8080), 'inbound:hi', 'T20: plain text in');
      t.match(inbound.arrivals.at(-1), { wanted: `${podIp}:8080`, from: outIp });
      t.equal(await askOnce(native, out, podIp, 15008), 'tunnel:hi');
      t.match(tunnel.arrivals.at(-1), { from: outIp });
      t.equal(await askOnce(native, out, podIp, 15001), 'inbound:hi', 'T22: no way to our ports');
      t.equal(await askOnce(native, pod, outIp, 9090, { marked: true }), 'other:hi', 'our own');

      const source = { address: outIp, port: 0 };
      const kept = { marked: true, transparent: true, source };
      t.equal(await askOnce(native, pod, podIp, 8080, kept), 'app:hi', 'as the client');
      t.equal(app.arrivals.at(-1)?.from, outIp, 'the application sees the original client');
    }
    const loopback = family.pod[0].includes(':') ? '::1' : '127.0.0.1';
    t.equal(await askOnce(native, pod, loopback, 8080), 'app:hi', 'loopback stays in the pod');

    const during = await dialIn(native, pod, family.out[0] ?? '', 9090);
    t.equal(await ask(during, '2'), 'outbound:2');
    await attached.apply();
    await attached.apply();
    t.same(await attached.check(), [], 'applying again changes nothing');
    t.equal(await ask(during, '3'), 'outbound:3', 'applying again cuts nothing');
    t.same(
      await Promise.all(before.map((socket) => ask(socket, '4'))),
      family.pod.flatMap(() => ['app:4', 'other:4']),
      'connections from before go on untouched',
    );

    await attached.detach();
    t.same(await attached.repair(), [], 'a repair does not undo a detach');
    t.equal(await askOnce(native, pod, family.out[0] ?? '', 9090), 'other:hi', 'detached');
    t.equal(await askOnce(native, out, family.pod[0] ?? '', 8080), 'app:hi', 'detached');
    t.equal(await ask(during, '5'), 'outbound:5', 'a captured connection outlives the detach');
    t.same(
      await Promise.all(before.map((socket) => ask(socket, '6'))),
      family.pod.flatMap(() => ['app:6', 'other:6']),
    );
    during.destroy();
    await attached.release();
    t.equal(network.run('pod', 'nft', 'list', 'ruleset'), '', 'no rule is left');
    t.equal(network.run('pod', 'ip', 'rule', 'show', 'pref', '32764'), '');
    t.equal(network.run('pod', 'ip', '-6', 'rule', 'show', 'pref', '32764'), '');
    t.equal(await ask(before[0] ?? during, '7'), 'app:7');

    for (const socket of before) socket.destroy();
    await Promise.all([app, other, outbound, inbound, tunnel].map((server) => server.close()));
  });
}

for (const family of FAMILIES.slice(0, 2)) {
  void t.test(`a port that the client uses itself, ${family.name}`, { skip }, async (t) => {
    const { native, pod, out, context, captured } = setUpPod(t, family);
    const [podIp] = family.pod;
    const [outIp] = family.out;
    const app = await serveIn(native, pod, 8080, 'app');
    const open = await dialIn(native, out, podIp, 8080);
    t.equal(await ask(open, '1'), 'app:1');
    const attached = await attachPod(context, captured);
    const inbound = await serveIn(native, pod, 15006, 'inbound', { ours: true });
    t.equal(await ask(open, '2'), 'app:2');
    const redirected = await dialIn(native, out, podIp, 8080);
    t.equal(await ask(redirected, '1'), 'inbound:1');

    for (const [theirs, name] of [
      [open, 'app'],
      [redirected, 'inbound'],
    ] as const) {
      const port = theirs.localPort ?? 0;
      const source = { address: outIp, port };
      const kept = { marked: true, transparent: true, source };
      const ours = await dialIn(native, pod, podIp, 8080, kept);
      t.equal(await ask(ours, '1'), 'app:1', 'ours is answered');
      t.equal(await ask(theirs, '2'), `${name}:2`, 'theirs goes on');
      t.equal(await ask(ours, '2'), 'app:2');
      theirs.destroy();
      ours.destroy();
    }

    const source = { address: outIp, port: 0 };
    const first = await dialIn(native, pod, podIp, 8080, {
      marked: true,
      transparent: true,
      source,
    });
    const later = await dialIn(native, out, podIp, 8080, {
      source: { address: outIp, port: first.localPort ?? 0 },
    });
    t.equal(await ask(later, '1'), 'inbound:1', 'a client that takes our port later');
    t.equal(await ask(first, '1'), 'app:1');
    first.destroy();
    later.destroy();
    attached.close();
    await Promise.all([app, inbound].map((server) => server.close()));
  });
}

for (const family of FAMILIES.slice(0, 2)) {
  void t.test(
    `T31: a port of ours that the far side has reset, ${family.name}`,
    { skip },
    async (t) => {
      const { native, pod, out, context, captured } = setUpPod(t, family);
      const [podIp] = family.pod;
      const [outIp] = family.out;
      const other = await serveIn(native, out, 9090, 'other');
      const attached = await attachPod(context, captured);
      const outbound = await serveIn(native, pod, 15001, 'outbound', { ours: true });
      const ours = await dialIn(native, pod, outIp, 9090, { marked: true });
      t.equal(await ask(ours, '1'), 'other:1');
      const port = ours.localPort ?? 0;
      const gone = new Promise((resolve) => ours.once('close', resolve));
      other.arrivals[0]?.socket.resetAndDestroy();
      await gone;
      // Connection tracking keeps an entry that was reset for 10 s, and takes a SYN from the same port for a part of it.
      const theirs = await dialIn(native, pod, outIp, 9090, { source: { address: podIp, port } });
      t.equal(await ask(theirs, '2'), 'outbound:2', 'the next one from there is the application’s');
      theirs.destroy();
      attached.close();
      await Promise.all([other, outbound].map((server) => server.close()));
    },
  );
}

void t.test(
  'T31: without a listener no plain text leaves, seen on the wire',
  { skip },
  async (t) => {
    const { native, pod, out, context, captured } = setUpPod(t, FAMILIES[2]);
    const other = await serveIn(native, out, 9090, 'other');
    const attached = await attachPod(context, captured);
    const capture = openPacketCapture(native, out, 'o0');
    for (let round = 0; round < 20; round++) {
      t.equal(await attempt(native, pod, '10.79.0.1', 9090), 'ECONNREFUSED');
      t.equal(await attempt(native, pod, 'fd79::1', 9090), 'ECONNREFUSED');
    }
    const seen = capture.read().map(parseTcpFrame);
    t.equal(seen.filter((segment) => segment !== undefined).length, 0);
    capture.close();
    attached.close();
    await other.close();
  },
);

void t.test('a dying listener leaves its queue to its group', { skip }, async (t) => {
  const { native, pod, out, context, captured } = setUpPod(t, FAMILIES[2]);
  const attached = await attachPod(context, captured);
  const heir = await serveIn(native, pod, 15008, 'heir', { ours: true });
  const dying = createListener(native, pod, { port: 15008 });
  // Nobody accepts from the second listener: about half of these wait in its queue.
  const clients = await Promise.all(
    Array.from({ length: 40 }, (_, i) =>
      dialIn(native, out, i % 2 ? '10.79.0.2' : 'fd79::2', 15008),
    ),
  );
  t.ok(heir.arrivals.length < 40, 'some wait');
  const answers = Promise.all(clients.map((client) => ask(client, 'x')));
  shutdownDescriptor(native, dying);
  t.same(new Set(await answers), new Set(['heir:x']), 'all were served');
  closeBare(dying);
  for (const client of clients) client.destroy();
  t.ok(descriptorOf(heir.server) > 0);
  await heir.close();
  attached.close();
});

void t.test(
  'attachPod refuses a namespace that is not the pod’s (T47, T122)',
  { skip },
  async (t) => {
    const { native, pod, out, context, captured } = setUpPod(t, FAMILIES[0]);
    const wrong = { ...captured, netnsInode: captured.netnsInode + 1 };
    t.equal(await codeOf(attachPod(context, wrong)), 'MESH_NAMESPACE_MISMATCH', 'another inode');
    const own = {
      ...captured,
      netnsPath: '/proc/self/ns/net',
      netnsInode: context.nodeNamespace.inode,
    };
    t.equal(await codeOf(attachPod(context, own)), 'MESH_NAMESPACE_MISMATCH', 'the own namespace');
    const asNode: RedirectContext = { ...context, nodeNamespace: out };
    const host = { ...captured, netnsPath: out.path, netnsInode: out.inode };
    t.equal(
      await codeOf(attachPod(asNode, host)),
      'MESH_NAMESPACE_MISMATCH',
      'the node’s namespace',
    );
    const moved = {
      ...captured,
      pod: { ...captured.pod, addresses: [unwrap(parseAddress('10.9.9.9'))] },
    };
    t.equal(
      await codeOf(attachPod(context, moved)),
      'MESH_NAMESPACE_MISMATCH',
      'none of its addresses',
    );
    const file = { ...captured, netnsPath: '/etc/hostname' };
    t.equal(await codeOf(attachPod(context, file)), 'MESH_NAMESPACE_MISMATCH', 'no namespace');
    const gone = { ...captured, netnsPath: '/run/netns/gone' };
    t.equal(await codeOf(attachPod(context, gone)), 'MESH_SYSCALL_FAILED', 'not there');
    const server = await serveIn(native, pod, 8080, 'app');
    t.equal(await askOnce(native, out, '10.79.0.2', 8080), 'app:hi', 'nothing was set');
    await server.close();
  },
);

void t.test(
  'attachPod takes over a table that does not fit, and says when it cannot',
  { skip },
  async (t) => {
    const { network, context, captured } = setUpPod(t, FAMILIES[0]);
    network.feed(
      'pod',
      'table inet nodemesh {\n chain inbound {\n type filter hook input priority 0; policy drop;\n }\n}\n',
      'nft',
      '-f',
      '-',
    );
    const attached = await attachPod(context, captured);
    t.match(
      network.run('pod', 'nft', 'list', 'table', 'inet', 'nodemesh'),
      /hook prerouting.*dstnat/,
    );
    attached.close();
    const many = { ...captured, pod: { ...captured.pod, addresses: [] } };
    network.run('pod', 'ip', 'link', 'set', 'lo', 'down');
    t.equal(await codeOf(attachPod(context, many)), 'MESH_RULES_FAILED', 'lo is down');
  },
);

void t.test('a pod with IPv6 switched off is captured for IPv4', { skip }, async (t) => {
  const { native, network, pod, out, context, captured } = setUpPod(t, FAMILIES[0]);
  const off = ['net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1'];
  network.run('pod', 'sysctl', '-qw', ...off, 'net.ipv6.conf.lo.disable_ipv6=1');
  const attached = await attachPod(context, captured);
  t.same(await attached.check(), []);
  const inbound = await serveIn(native, pod, 15006, 'inbound', { ours: true });
  t.equal(await askOnce(native, out, '10.79.0.2', 8080), 'inbound:hi');
  t.match(inbound.arrivals, [{ from: '10.79.0.1', wanted: '10.79.0.2:8080' }]);
  await attached.release();
  await inbound.close();
});

void t.test('strict reverse-path filtering changes nothing', { skip }, async (t) => {
  const { native, network, pod, out, context, captured } = setUpPod(t, FAMILIES[0]);
  const strict = ['all', 'default', 'eth0', 'lo'].map(
    (device) => `net.ipv4.conf.${device}.rp_filter=1`,
  );
  network.run('pod', 'sysctl', '-qw', ...strict);
  const attached = await attachPod(context, captured);
  const app = await serveIn(native, pod, 8080, 'app');
  const inbound = await serveIn(native, pod, 15006, 'inbound', { ours: true });
  t.equal(await askOnce(native, out, '10.79.0.2', 8080), 'inbound:hi');
  const source = { address: '10.79.0.1', port: 0 };
  const kept = { marked: true, transparent: true, source };
  t.equal(await askOnce(native, pod, '10.79.0.2', 8080, kept), 'app:hi');
  t.equal(app.arrivals[0]?.from, '10.79.0.1');
  await Promise.all([app.close(), inbound.close()]);
  await attached.release();
});

void t.test(
  'one client’s address carries more connections than it has ports',
  { skip },
  async (t) => {
    const { native, network, pod, context, captured } = setUpPod(t, FAMILIES[2]);
    const attached = await attachPod(context, captured);
    // Few ports, so that the same one must serve several destinations.
    network.run('pod', 'sysctl', '-qw', 'net.ipv4.ip_local_port_range=40000 40009');
    const servers = await Promise.all(
      [8080, 8081, 8082].map((port) => serveIn(native, pod, port, `app`)),
    );
    for (const [podIp, address] of [
      ['10.79.0.2', '10.79.0.1'],
      ['fd79::2', 'fd79::1'],
    ] as const) {
      const kept = { marked: true, transparent: true, source: { address, port: 0 } };
      const sockets = await Promise.all(
        Array.from({ length: 24 }, (_, i) => dialIn(native, pod, podIp, 8080 + (i % 3), kept)),
      );
      t.same(
        new Set(await Promise.all(sockets.map((socket) => ask(socket, '1')))),
        new Set(['app:1']),
      );
      for (const socket of sockets) socket.destroy();
    }
    await Promise.all(servers.map((server) => server.close()));
    attached.close();
  },
);

void t.test(
  'a pod attached by an earlier agent is detached by its successor',
  { skip },
  async (t) => {
    const { native, network, pod, out, context, captured } = setUpPod(t, FAMILIES[2]);
    const nothing = adoptPod(context, captured);
    t.equal(await nothing.isPresent(), false);
    nothing.close();
    (await attachPod(context, captured)).close();
    const app = await serveIn(native, pod, 8080, 'app');
    t.equal(await attempt(native, out, '10.79.0.2', 8080), 'ECONNREFUSED', 'stays refusing');
    const adopted = adoptPod(context, captured);
    t.equal(await adopted.isPresent(), true);
    t.same(await adopted.repair(), [], 'adopting sets nothing');
    await adopted.detach();
    t.equal(await askOnce(native, out, '10.79.0.2', 8080), 'app:hi');
    t.equal(await adopted.isPresent(), true);
    await adopted.release();
    t.equal(network.run('pod', 'nft', 'list', 'ruleset'), '');
    await app.close();
  },
);
