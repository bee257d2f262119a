/** Which namespace is whose: cgroup paths, searching processes, what the CNI said, the registry file. */

import { once } from 'node:events';
import { spawn } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { openNamespace } from '../../src/linux/namespaces.ts';
import { loadNative } from '../../src/linux/native.ts';
import { podUidOfCgroup, startTimeOfStat } from '../../src/redirect/cgroup.ts';
import type { CniRequest } from '../../src/redirect/cni-request.ts';
import type { RedirectContext } from '../../src/redirect/context.ts';
import { openPodNamespaces, PODS_MAX } from '../../src/redirect/namespaces.ts';
import { parseRegistry, readRegistry, writeRegistry } from '../../src/redirect/registry.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

const UID = '0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f' as PodUid;
const OTHER = 'ffffffff-0a1b-0a1b-0a1b-0a1b2c3d4e5f' as PodUid;
const SLICE = UID.replaceAll('-', '_');
const STATIC = '0123456789abcdef0123456789abcdef';
const skip = reasonToSkip();

void t.test('podUidOfCgroup knows the forms of kubelets and runtimes', (t) => {
  const systemd = `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${SLICE}.slice`;
  for (const [text, uid] of [
    [`0::/kubepods/burstable/pod${UID}/c1\n`, UID],
    [`0::/kubepods/pod${UID}\n`, UID],
    [`0::/node-a/kubepods/besteffort/pod${UID}/c1\n`, UID],
    [`0::${systemd}/cri-containerd-0123.scope\n`, UID],
    [`0::/kubepods.slice/kubepods-pod${SLICE}.slice/crio-1.scope\n`, UID],
    [`0::/../../pod${UID}/c1\n`, UID],
    [`0::/kubepods/burstable/pod${STATIC}/c1\n`, STATIC],
    [`12:cpu,cpuacct:/kubepods/pod${UID}/c\n1:name=systemd:/kubepods/pod${UID}/c\n0::/\n`, UID],
    [`0::/kubepods/pod${UID}/c1/kubepods/pod${OTHER}/c2\n`, UID],
    [`0::/kubepods/pod${UID}/a:b\n`, UID],
    [`1:cpu:/kubepods/pod${UID}/c\n0::/kubepods/pod${OTHER}/c\n`, undefined],
    ['0::/\n', undefined],
    ['', undefined],
    [`0::/system.slice/x-pod${UID}.service\n`, undefined],
    [`0::/kubepods/pod${UID}x/c1\n`, undefined],
    [`0::/kubepods/pod0a1b2c3d-0a1b_0a1b-0a1b-0a1b2c3d4e5f/c1\n`, undefined],
  ] as const) {
    t.equal(podUidOfCgroup(text), uid, JSON.stringify(text));
  }
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), (text) => podUidOfCgroup(text) === undefined),
  );
  fc.assert(
    fc.property(fc.uuid(), fc.array(fc.stringMatching(/^[a-z.-]{1,9}$/)), (uid, tail) => {
      const path = ['kubepods', 'burstable', `pod${uid}`, ...tail, `pod${OTHER}`].join('/');
      return podUidOfCgroup(`0::/${path}\n`) === uid;
    }),
  );
  t.end();
});

void t.test('startTimeOfStat is not misled by the name of the program', (t) => {
  const rest = `S ${Array.from({ length: 18 }, (_, i) => i).join(' ')} 4711 0 0`;
  t.equal(startTimeOfStat(`1 (pause) ${rest}`), 4711);
  t.equal(startTimeOfStat(`1 (a) 1 2) ) ${rest}`), 4711);
  t.equal(startTimeOfStat(''), undefined);
  t.equal(startTimeOfStat('1 (x) S'), undefined);
  t.end();
});

function setUp(t: Test) {
  const native = loadNative();
  const network = createTestNetwork();
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-namespaces-'));
  const node = openNamespace(native, '/proc/self/ns/net');
  t.teardown(() => {
    node.close();
    network.removeAll();
    rmSync(dir, { recursive: true, force: true });
  });
  const context: RedirectContext = {
    native,
    clock: createSystemClock(),
    logger: createNullLogger(),
    nodeNamespace: node,
  };
  const procDir = join(dir, 'proc');
  /** A process in the look-alike proc. */
  const addProcess = (pid: number, cgroup: string, startTime: number, netns: string): void => {
    mkdirSync(join(procDir, `${pid}`, 'ns'), { recursive: true });
    writeFileSync(join(procDir, `${pid}`, 'cgroup'), cgroup);
    const fields = `S ${'0 '.repeat(18)}${startTime} 0 0`;
    writeFileSync(join(procDir, `${pid}`, 'stat'), `${pid} (x) ${fields}`);
    symlinkSync(netns, join(procDir, `${pid}`, 'ns', 'net'));
  };
  mkdirSync(procDir);
  return { native, network, dir, context, procDir, addProcess };
}

function request(podUid: string, netnsPath: string, containerId = 'c1'): CniRequest {
  return {
    command: 'add',
    containerId,
    netnsPath,
    podUid: podUid as PodUid,
    podName: 'web',
    podNamespace: 'shop',
    addresses: [],
  };
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'resolved',
    (error: unknown) => (error instanceof MeshError ? error.code : String(error)),
  );

void t.test('namespaces are found by the oldest process of the pod', { skip }, async (t) => {
  const { native, network, dir, context, procDir, addProcess } = setUp(t);
  const paths = ['one', 'two'].map((name) => network.add(name));
  const [one = '', two = ''] = paths;
  const namespace = openNamespace(native, one);
  const inode = namespace.inode;
  namespace.close();
  const namespaces = await openPodNamespaces(context, { stateDir: dir, procDir });
  t.equal(await namespaces.find(UID), undefined);
  addProcess(30, `0::/kubepods/pod${UID}/c2\n`, 500, two);
  addProcess(20, `0::/kubepods/pod${UID}/c1\n`, 100, one);
  addProcess(10, `0::/kubepods/pod${UID}/c3\n`, 900, two);
  addProcess(11, `0::/kubepods/pod${OTHER}/c1\n`, 1, '/proc/self/ns/net');
  addProcess(12, `0::/kubepods/pod${OTHER}/c1\n`, 2, two);
  addProcess(13, `0::/kubepods/pod${STATIC}/c1\n`, 2, '/nowhere');
  t.match(await namespaces.find(UID), {
    netnsPath: join(procDir, '20/ns/net'),
    netnsInode: inode,
  });
  t.equal(await namespaces.find(OTHER), undefined, 'a hostNetwork pod has none (T30)');
  const all = await namespaces.findAll(new Set([UID, OTHER, STATIC as PodUid]));
  t.same([...all.keys()], [UID]);
});

void t.test(
  'what the CNI said is kept over a restart, and verified each time',
  { skip },
  async (t) => {
    const { network, dir, context, procDir } = setUp(t);
    const one = network.add('one');
    const two = network.add('two');
    const options = { stateDir: dir, procDir };
    const first = await openPodNamespaces(context, options);
    const learnt = await first.learn(request(UID, one));
    t.same(await first.find(UID), learnt);
    t.equal(
      await codeOf(first.learn(request(OTHER, one))),
      'MESH_NAMESPACE_MISMATCH',
      'taken (T122)',
    );
    const own = request(OTHER, '/proc/self/ns/net');
    t.equal(await codeOf(first.learn(own)), 'MESH_NAMESPACE_MISMATCH', 'the node’s own (T122)');
    const file = request(OTHER, '/etc/hostname');
    t.equal(await codeOf(first.learn(file)), 'MESH_NAMESPACE_MISMATCH', 'no namespace (T122)');
    const missing = request(OTHER, '/run/netns/missing');
    t.equal(await codeOf(first.learn(missing)), 'MESH_SYSCALL_FAILED');
    t.equal(await first.find(OTHER), undefined);

    const second = await openPodNamespaces(context, options);
    t.same(await second.find(UID), learnt, 'known after a restart');
    await second.forget(UID, 'an-older-sandbox');
    t.same(await second.find(UID), learnt, 'an older sandbox’s DEL changes nothing');
    await second.learn(request(UID, two, 'c2'));
    t.not((await second.find(UID))?.netnsInode, learnt.netnsInode, 'a new sandbox');
    await second.learn(request(OTHER, one));
    await second.keepOnly(new Set([UID]));
    t.equal(await second.find(OTHER), undefined);
    await second.forget(UID, 'c2');
    t.equal(await second.find(UID), undefined);

    await second.learn(request(UID, one));
    network.removeAll();
    t.equal(await second.find(UID), undefined, 'a namespace that is gone (T47)');
    writeFileSync(join(dir, 'pod-namespaces.json'), '{"version":1,"pods":[{"podUid":"../x"}]}');
    const third = await openPodNamespaces(context, options);
    t.equal(await third.find(UID), undefined, 'a broken registry is no obstacle');
  },
);

void t.test('remembered pods are bounded', { skip }, async (t) => {
  const { network, dir, context, procDir } = setUp(t);
  const entry = { containerId: 'c', netnsPath: '/run/netns/gone', netnsInode: 1 };
  const entries = Array.from({ length: PODS_MAX }, (_, i) => ({
    ...entry,
    podUid: `p${i}` as PodUid,
  }));
  await writeRegistry(join(dir, 'pod-namespaces.json'), entries);
  const namespaces = await openPodNamespaces(context, { stateDir: dir, procDir });
  const one = network.add('one');
  t.equal(await codeOf(namespaces.learn(request(UID, one))), 'MESH_LIMIT_EXCEEDED');
  await namespaces.keepOnly(new Set());
  t.equal(await codeOf(namespaces.learn(request(UID, one))), 'resolved');
});

void t.test('the registry file is read strictly (T123)', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-registry-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, 'registry.json');
  t.same(await readRegistry(file), { ok: true, value: [] });
  const entry = { podUid: UID, containerId: 'c', netnsPath: '/run/netns/a', netnsInode: 7 };
  await writeRegistry(file, [entry]);
  t.same(await readRegistry(file), { ok: true, value: [entry] });
  t.equal(JSON.parse(readFileSync(file, 'utf8')).version, 1);
  writeFileSync(file, Buffer.alloc(4 * 1024 * 1024 + 1));
  const large = await readRegistry(file);
  t.match(!large.ok && large.error.message, /at most/);
  const wrong = [
    '',
    '[]',
    'null',
    '{"version":2,"pods":[]}',
    '{"version":1,"pods":{}}',
    '{"version":1,"pods":[null]}',
    JSON.stringify({ version: 1, pods: [{ ...entry, netnsPath: '/a/../b' }] }),
    JSON.stringify({ version: 1, pods: [{ ...entry, netnsInode: '7' }] }),
  ];
  for (const text of wrong) t.match(parseRegistry(text), { ok: false }, text);
  fc.assert(fc.property(fc.json(), (text) => !parseRegistry(text).ok));
});

void t.test('a real process in a real cgroup is found', { skip }, async (t) => {
  const { dir, context } = setUp(t);
  const roots = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup/freezer', '/sys/fs/cgroup'];
  const base = `nodemesh-test-${process.pid}`;
  const parts = [base, 'kubepods', 'burstable', `pod${UID}`, 'c1'];
  const root = roots.find((path) => {
    try {
      mkdirSync(join(path, ...parts), { recursive: true });
      return true;
    } catch {
      return false;
    }
  });
  if (root === undefined) {
    t.comment('no cgroup can be made here');
    return;
  }
  const child = spawn('unshare', ['--net', 'sleep', '30'], { stdio: 'ignore' });
  child.on('error', (error) => t.error(error));
  t.teardown(async () => {
    child.kill('SIGKILL');
    await once(child, 'exit');
    for (let size = parts.length; size > 0; size--) rmdirSync(join(root, ...parts.slice(0, size)));
  });
  writeFileSync(join(root, ...parts, 'cgroup.procs'), `${child.pid}`);
  const namespaces = await openPodNamespaces(context, { stateDir: dir });
  // `unshare` replaces itself with `sleep` after making the namespace.
  let found = await namespaces.find(UID);
  for (let tries = 0; found === undefined && tries < 500; tries++)
    found = await namespaces.find(UID);
  t.equal(found?.netnsPath, `/proc/${child.pid}/ns/net`);
  t.not(found?.netnsInode, context.nodeNamespace.inode);
});

void t.test('two agents write the registry at once during an upgrade', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-registry-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, 'pod-namespaces.json');
  const entry = { podUid: UID, containerId: 'c', netnsPath: '/run/netns/a', netnsInode: 1 };
  for (let round = 0; round < 20; round++) {
    await Promise.all([writeRegistry(file, [entry]), writeRegistry(file, [entry])]);
  }
  t.same(await readRegistry(file), { ok: true, value: [entry] });
  t.same(readdirSync(dir), ['pod-namespaces.json'], 'nothing is left beside it');
});
