/** Taking the mesh out of network namespaces: what is ours goes, what is somebody else's stays. */

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { runCommand } from '../../src/linux/commands.ts';
import { cleanNamespaces, namespacePaths } from '../../src/redirect/clean.ts';
import { formatPodRules, formatRouteCommands, formatRouteQuery } from '../../src/redirect/rules.ts';
import { reasonToSkip } from '../support/network-namespace.ts';
import { FAMILIES, setUpPod } from './pod-network.ts';

t.test('one path stands for each namespace, whoever is in it', async (t) => {
  const proc = mkdtempSync(join(tmpdir(), 'nodemesh-proc-'));
  t.teardown(() => rmSync(proc, { recursive: true }));
  for (const [pid, namespace] of [
    ['1', 'net:[1]'],
    ['20', 'net:[2]'],
    ['21', 'net:[2]'],
    ['self', 'net:[3]'],
  ] as const) {
    mkdirSync(join(proc, pid, 'ns'), { recursive: true });
    symlinkSync(namespace, join(proc, pid, 'ns/net'));
  }
  mkdirSync(join(proc, '30'));
  writeFileSync(join(proc, 'uptime'), '');
  t.strictSame(namespacePaths(proc), [join(proc, '1/ns/net'), join(proc, '21/ns/net')]);
});

const skip = reasonToSkip('nft', 'ip');
t.test('rules, route and probe tables of ours go, foreign ones stay', { skip }, async (t) => {
  const { native, pod, out, context: set } = setUpPod(t, FAMILIES[0]);
  // The node's own namespace in this test is the other end: its tables are cleaned, too.
  const context = { ...set, nodeNamespace: out };
  const nft = (namespace: typeof pod, input: string): Promise<unknown> =>
    runCommand(native, set.clock, 'nft', ['-f', '-'], { namespace, input });
  await nft(pod, formatPodRules([]));
  await nft(pod, 'table inet foreign {\n}\n');
  await runCommand(native, set.clock, 'ip', ['-4', '-batch', '-'], {
    namespace: pod,
    input: formatRouteCommands('ipv4', false),
  });
  await nft(out, 'table inet nodemesh_probes {\n}\ntable inet kube-proxy {\n}\n');
  const report = await cleanNamespaces(context, [pod.path, out.path]);
  t.strictSame(report, { cleaned: 1, failures: [] });
  const tables = async (namespace: typeof pod): Promise<string> =>
    (await runCommand(native, set.clock, 'nft', ['list', 'tables'], { namespace })).stdout;
  t.equal(await tables(pod), 'table inet foreign\n');
  t.equal(await tables(out), 'table inet kube-proxy\n');
  const routes = await runCommand(native, set.clock, 'ip', ['-4', '-force', '-batch', '-'], {
    namespace: pod,
    input: formatRouteQuery(),
  }).catch(() => ({ stdout: '' }));
  t.equal(routes.stdout.trim(), '');
  t.strictSame(await cleanNamespaces(context, [pod.path]), { cleaned: 0, failures: [] }, 'again');
});

t.test('what cannot be opened is told, the others are cleaned', { skip }, async (t) => {
  const { pod, out, context, native } = setUpPod(t, FAMILIES[0]);
  await runCommand(native, context.clock, 'nft', ['-f', '-'], {
    namespace: pod,
    input: formatPodRules([]),
  });
  const report = await cleanNamespaces({ ...context, nodeNamespace: out }, [
    '/proc/self/status',
    pod.path,
  ]);
  t.equal(report.cleaned, 1);
  t.match(report.failures, [/\/proc\/self\/status/]);
});
