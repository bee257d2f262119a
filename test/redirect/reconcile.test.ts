/** Rules that are flushed, changed or deleted are noticed, reported and repaired. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { openChangeMonitor } from '../../src/linux/change-monitor.ts';
import { NATIVE_BACKENDS, loadNative } from '../../src/linux/native.ts';
import { openNamespace } from '../../src/linux/namespaces.ts';
import { attachPod } from '../../src/redirect/attach.ts';
import { createReconciler, type ReconcileFinding } from '../../src/redirect/reconcile.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';
import { FAMILIES, setUpPod } from './pod-network.ts';
import { attempt, serveIn } from './sockets-in.ts';

const skip = reasonToSkip('nft');

for (const backend of NATIVE_BACKENDS) {
  void t.test(`changes of rules and routes are noticed through ${backend}`, { skip }, (t) => {
    const native = loadNative(backend);
    const network = createTestNetwork();
    t.teardown(() => network.removeAll());
    const pod = openNamespace(native, network.add('pod'));
    t.teardown(() => pod.close());
    const monitor = openChangeMonitor(native, pod);
    t.equal(monitor.takeChanged(), false);
    network.run('pod', 'nft', 'add', 'table', 'ip', 'x');
    t.equal(monitor.takeChanged(), true);
    t.equal(monitor.takeChanged(), false);
    for (const version of ['-4', '-6']) {
      network.run('pod', 'ip', version, 'rule', 'add', 'pref', '9', 'lookup', '9');
      t.equal(monitor.takeChanged(), true);
      const route = ['route', 'add', 'local', 'default', 'dev', 'lo', 'table', '9'];
      network.run('pod', 'ip', version, ...route);
      t.equal(monitor.takeChanged(), true);
    }
    for (let i = 0; i < 2_000; i += 200) {
      const lines = Array.from({ length: 200 }, (_, n) => `add table ip t${i + n}`).join('\n');
      network.feed('pod', lines, 'nft', '-f', '-');
    }
    for (let call = 0; call < 30 && monitor.takeChanged(); call++);
    t.equal(monitor.takeChanged(), false, 'a flood ends');
    monitor.close();
    monitor.close();
    t.equal(monitor.takeChanged(), false);
    t.end();
  });
}

void t.test(
  'the reconciler repairs what a pod with NET_ADMIN breaks (T29, T33)',
  { skip },
  async (t) => {
    const { native, network, pod, out, context, captured } = setUpPod(t, FAMILIES[2]);
    const attached = await attachPod(context, captured);
    const other = await serveIn(native, out, 9090, 'other');
    const findings: ReconcileFinding[] = [];
    const reconciler = createReconciler(context, (finding) => findings.push(finding));
    reconciler.add(attached);
    await reconciler.runNow();
    t.same(findings, [], 'what was set is in order');
    const harm: [string[], string][] = [
      [['nft', 'flush', 'ruleset'], 'rules are gone'],
      [['nft', 'flush', 'chain', 'inet', 'nodemesh', 'outbound'], 'rules differ'],
      [['nft', 'insert', 'rule', 'inet', 'nodemesh', 'outbound', 'accept'], 'rules differ'],
      [['nft', 'delete', 'chain', 'inet', 'nodemesh', 'outbound'], 'rules differ'],
      [['ip', 'rule', 'del', 'pref', '32764'], 'ipv4 routing rule is gone'],
      [['ip', '-6', 'rule', 'del', 'pref', '32764'], 'ipv6 routing rule is gone'],
      [['ip', 'route', 'flush', 'table', '100'], 'ipv4 route is gone'],
      [['ip', '-6', 'route', 'flush', 'table', '100'], 'ipv6 route is gone'],
      [['sysctl', '-qw', 'net.ipv4.tcp_migrate_req=0'], 'net.ipv4.tcp_migrate_req is off'],
    ];
    for (const [[program = '', ...args], found] of harm) {
      network.run('pod', program, ...args);
      await reconciler.runNow();
      t.match(findings.at(-1), { found: [found], error: undefined }, found);
      t.same(await attached.check(), [], `repaired: ${found}`);
      t.equal(await attempt(native, pod, '10.79.0.1', 9090), 'ECONNREFUSED', 'captured again');
    }
    t.equal(findings.length, harm.length);
    reconciler.remove('uid-1' as PodUid);
    network.run('pod', 'nft', 'flush', 'ruleset');
    await reconciler.runNow();
    t.equal(findings.length, harm.length, 'a removed pod is left alone');
    reconciler.close();
    attached.close();
    await other.close();
  },
);

void t.test(
  'a change is repaired in seconds, at most every 5 s, and else each 30 s',
  { skip },
  async (t) => {
    const set = setUpPod(t, FAMILIES[0]);
    const clock = createFakeClock();
    const attached = await attachPod(set.context, set.captured);
    let wake = (): void => {};
    const findings: ReconcileFinding[] = [];
    const found = (): Promise<void> => new Promise((resolve) => (wake = resolve));
    const reconciler = createReconciler({ ...set.context, clock }, (finding) => {
      findings.push(finding);
      wake();
    });
    reconciler.add(attached);
    await reconciler.runNow();
    set.network.run('pod', 'nft', 'flush', 'ruleset');
    await clock.advance(4_000);
    t.equal(findings.length, 0, 'looked at a moment ago');
    const first = found();
    await clock.advance(1_000);
    await first;
    t.match(findings[0]?.found, ['rules are gone']);
    t.same(await attached.check(), []);
    // The round that found it is still ending: let it.
    await reconciler.runNow();
    set.network.run('pod', 'sysctl', '-qw', 'net.ipv4.tcp_migrate_req=0');
    await clock.advance(20_000);
    t.equal(findings.length, 1, 'a sysctl gives no notice');
    const second = found();
    await clock.advance(10_000);
    await second;
    t.match(findings[1]?.found, ['net.ipv4.tcp_migrate_req is off']);
    reconciler.close();
    t.equal(clock.pendingCount(), 0);
    attached.close();
  },
);

void t.test('a pod that cannot be repaired is reported with the reason', { skip }, async (t) => {
  const { network, context, captured } = setUpPod(t, FAMILIES[0]);
  const attached = await attachPod(context, captured);
  const findings: ReconcileFinding[] = [];
  const reconciler = createReconciler(context, (finding) => findings.push(finding));
  reconciler.add(attached);
  network.run('pod', 'ip', 'link', 'set', 'lo', 'down');
  await reconciler.runNow();
  const { error } = findings[0] ?? {};
  t.equal(error instanceof MeshError && error.code, 'MESH_RULES_FAILED');
  reconciler.close();
  attached.close();
});
