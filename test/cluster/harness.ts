/**
 * A real cluster for tests. `make test` and `npm test -- test/cluster` bring one up for all of them; a test file
 * alone uses the one that `CLUSTER_ID` names (`test/cluster/cluster up`) or that `KUBECONFIG` leads to.
 * Each test owns its namespaces, which go when it ends.
 */

import { spawnSync } from 'node:child_process';

import type { Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { until } from '../../src/demo/mesh.ts';
import { openWire, type Wire } from '../../src/demo/wire.ts';
import type { TcpSegment } from '../../src/linux/frames.ts';
import { loadNative } from '../../src/linux/native.ts';
import {
  accessByKubeconfig,
  accessOwnCluster,
  reasonAgainstCluster,
  type ClusterAccess,
  type OwnCluster,
} from './cluster-access.ts';
import { namespaceObjects, type KubeObject, type NamespaceOptions } from './manifests.ts';
import { ensureMesh } from './mesh.ts';
import { isPodTraffic } from './pod-traffic.ts';
import { openPodLine, type PodLine } from './pod-line.ts';

const READY_TIMEOUT = '120s';

/** Why there is no cluster to test on, or false: the `skip` option of a tap test. `own`: whether only ours will do. */
export function reasonToSkipCluster(own = false): string | false {
  if (process.env['CLUSTER_ID'] !== undefined) return false;
  if (process.env['KUBECONFIG'] !== undefined) {
    return own
      ? "needs the project's own cluster, to look at its wires and to break its parts"
      : false;
  }
  return (
    process.env['NODEMESH_NO_CLUSTER'] ??
    reasonAgainstCluster() ??
    'needs a running cluster: start it with "npm test -- FILE", or name one by CLUSTER_ID or KUBECONFIG'
  );
}

/** The same for what needs Gateway API, whose CRDs come from its Go module. */
export function reasonToSkipGatewayApi(own = false): string | false {
  const reason = reasonToSkipCluster(own);
  if (reason !== false) return reason;
  return spawnSync('go', ['version']).status === 0 ? false : 'needs Go to fetch Gateway API';
}

export interface PodView {
  readonly name: string;
  readonly uid: string;
  readonly node: string;
  readonly ip: string;
  readonly phase: string;
  readonly ready: boolean;
}

export interface WireOptions {
  /** The hub's port to a node. Default `v-node-a`. */
  readonly device?: 'v-node-a' | 'v-node-b';
  /** Which of the pods' segments count. Default: all. */
  readonly counts?: (segment: TcpSegment) => boolean;
}

export interface TestCluster {
  readonly access: ClusterAccess;
  /** The project's own cluster; throws when the tests run on another. */
  readonly own: OwnCluster;
  /** Standard output of kubectl; throws with its words when it fails. */
  kubectl(...args: readonly string[]): Promise<string>;
  apply(objects: readonly KubeObject[]): Promise<void>;
  /** Installs the mesh unless it is there, and waits until it is ready. */
  mesh(): Promise<void>;
  /** A new namespace, deleted when the test ends; returns its name. */
  namespace(name: string, options?: NamespaceOptions): Promise<string>;
  /** Waits until the Deployments, DaemonSets or StatefulSets (`deployment/web`) are rolled out. */
  rolledOut(namespace: string, ...names: readonly string[]): Promise<void>;
  /** Pods that are not being deleted, by a label selector. */
  pods(namespace: string, selector?: string): Promise<PodView[]>;
  /** The only pod of this selector. */
  pod(namespace: string, selector: string): Promise<PodView>;
  /** The address of a Service: for a pod whose first packet is a connection, and where DNS is not what is looked at. */
  serviceAddress(namespace: string, name: string): Promise<string>;
  /** A program in the first running pod of an app, for traffic from there; closed when the test ends. */
  line(namespace: string, app: string): Promise<PodLine>;
  /** What crosses the wire between a node and everything else, of pods only; closed when the test ends. */
  wire(options?: WireOptions): Wire;
}

interface PodList {
  readonly items: readonly {
    readonly metadata: {
      readonly name: string;
      readonly uid: string;
      readonly deletionTimestamp?: string;
    };
    readonly spec: { readonly nodeName?: string };
    readonly status: {
      readonly phase?: string;
      readonly podIP?: string;
      readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    };
  }[];
}

export function useCluster(t: Test): TestCluster {
  const id = process.env['CLUSTER_ID'];
  const access = id === undefined ? accessByKubeconfig() : accessOwnCluster(id);
  const kubectl = async (...args: readonly string[]): Promise<string> => {
    const done = await access.kubectl(args);
    if (done.code !== 0) throw new Error(`kubectl ${args.join(' ')}: ${done.err}`);
    return done.out;
  };
  const apply = async (objects: readonly KubeObject[]): Promise<void> => {
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    const done = await access.kubectl(['apply', '-f', '-'], { input });
    if (done.code !== 0) throw new Error(`kubectl apply: ${done.err}`);
  };
  const pods = async (namespace: string, selector?: string): Promise<PodView[]> => {
    const which = selector === undefined ? [] : ['-l', selector];
    const list = JSON.parse(
      await kubectl('-n', namespace, 'get', 'pods', '-o', 'json', ...which),
    ) as PodList;
    return list.items
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map(({ metadata, spec, status }) => ({
        name: metadata.name,
        uid: metadata.uid,
        node: spec.nodeName ?? '',
        ip: status.podIP ?? '',
        phase: status.phase ?? '',
        ready:
          status.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ===
          true,
      }));
  };
  return {
    access,
    get own() {
      if (access.own === undefined) throw new Error("This test needs the project's own cluster");
      return access.own;
    },
    kubectl,
    apply,
    pods,
    mesh: () => ensureMesh(access),
    async namespace(name, options) {
      t.teardown(() => access.kubectl(['delete', 'namespace', name, '--wait=false']));
      // What a run left that was killed is on its way out, or stays.
      await kubectl('delete', 'namespace', name, '--ignore-not-found');
      await apply(namespaceObjects(name, options));
      await until(`namespace "${name}" has its default account`, 20_000, async () => {
        const args = ['-n', name, 'get', 'serviceaccount', 'default'];
        return (await access.kubectl(args)).code === 0;
      });
      return name;
    },
    async rolledOut(namespace, ...names) {
      for (const name of names) {
        await kubectl('-n', namespace, 'rollout', 'status', name, `--timeout=${READY_TIMEOUT}`);
      }
    },
    async pod(namespace, selector) {
      const [first, ...more] = await pods(namespace, selector);
      if (first === undefined || more.length > 0) {
        throw new Error(`${more.length + Number(first !== undefined)} pods match "${selector}"`);
      }
      return first;
    },
    serviceAddress: (namespace, name) =>
      kubectl('-n', namespace, 'get', 'service', name, '-o', 'jsonpath={.spec.clusterIP}'),
    async line(namespace, app) {
      const running = (await pods(namespace, `app=${app}`)).find(
        ({ phase }) => phase === 'Running',
      );
      if (running === undefined) throw new Error(`No running pod of app "${app}"`);
      const line = await openPodLine(access, { namespace, pod: running.name });
      t.teardown(() => line.close());
      return line;
    },
    wire({ device = 'v-node-a', counts } = {}) {
      const { own } = access;
      if (own === undefined) throw new Error("This test needs the project's own cluster");
      const wire = openWire(loadNative(), createSystemClock(), {
        netns: `/run/netns/${own.hub}`,
        device,
        ignores: (segment) => !isPodTraffic(segment) || (counts !== undefined && !counts(segment)),
      });
      t.teardown(() => wire.close());
      return wire;
    },
  };
}
