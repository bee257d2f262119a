/** The end of an installation on a real cluster: nothing of it is left, nobody was restarted, and it can begin again. */

import t from 'tap';

import { reasonToSkipCluster, useCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { applyMesh, meshctl } from './mesh.ts';

/** What of ours a node has: files, tables in its own and every pod's network namespace. */
const TRACES = `ls /etc/cni/net.d /opt/cni/bin | grep -i nodemesh
find /run/nodemesh /var/lib/nodemesh -mindepth 1 2>/dev/null
for p in /proc/[0-9]*; do nsenter --net=$p/ns/net nft list tables 2>/dev/null; done | grep nodemesh | sort -u`;

t.test(
  'meshctl uninstall leaves nothing, and installing again works',
  { skip: reasonToSkipCluster(true) },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('leaving', { mesh: true });
    await cluster.apply(appObjects(namespace, 'web', { replicas: 2 }));
    await cluster.rolledOut(namespace, 'deployment/web');
    const traces = async (): Promise<string> => {
      const found: string[] = [];
      for (const node of ['node-a', 'node-b'])
        found.push(await cluster.own.tool('node', node, 'sh', '-c', `${TRACES}; true`));
      return found.join('').trim();
    };
    t.match(await traces(), /table inet nodemesh/, 'the control: it is seen while it is there');
    const refused = await meshctl(cluster.access, 'uninstall');
    t.equal(refused.code, 1);
    t.match(refused.err, /the mesh is in use: .*leaving/);
    const before = await cluster.pods(namespace);
    const done = await meshctl(
      cluster.access,
      'uninstall',
      '--force',
      '--purge-crds',
      '--timeout',
      '120s',
    );
    t.equal(done.code, 0, done.err);
    t.equal(await traces(), '');
    for (const kinds of [
      'crd,clusterrole,clusterrolebinding',
      'validatingadmissionpolicy,validatingadmissionpolicybinding',
      'namespace',
    ]) {
      t.notMatch(await cluster.kubectl('get', kinds, '-o', 'name'), /nodemesh/, kinds);
    }
    t.notMatch(
      await cluster.kubectl('get', 'namespace', namespace, '-o', 'jsonpath={.metadata.labels}'),
      /nodemesh\.dev/,
    );
    const uids = (pods: readonly { uid: string }[]): string[] =>
      pods.map(({ uid }) => uid).toSorted();
    t.strictSame(uids(await cluster.pods(namespace)), uids(before), 'no pod was restarted');
    // A new pod starts without anybody to ask.
    await cluster.kubectl('-n', namespace, 'rollout', 'restart', 'deployment/web');
    await cluster.rolledOut(namespace, 'deployment/web');
    await applyMesh(cluster.access);
    t.equal((await meshctl(cluster.access, 'check')).code, 0);
  },
);
