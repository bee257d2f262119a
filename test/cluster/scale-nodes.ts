/**
 * Simulated node proxies: real discovery streams over TLS with real projected tokens, which take everything an agent
 * takes, report their pods as captured, and note when they heard of each workload.
 */

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import type { Clock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { dialController, type ControllerAddress } from '../../src/app/dial.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { createDiscoveryClient, type TypeSubscription } from '../../src/discovery/client.ts';
import { captureReportResource } from '../../src/discovery/codec-local.ts';
import { decodeAddress } from '../../src/discovery/codec-workload.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';

export interface SimulatedNodes {
  /** Addresses each node holds now. */
  readonly held: () => readonly number[];
  /** Of the first node's addresses, those that are reached by HBONE. */
  readonly tunnelled: () => number;
  readonly updates: () => number;
  stop(): Promise<void>;
}

export interface SimulatedNodesOptions {
  readonly clock: Clock;
  readonly controller: ControllerAddress;
  /** By node. */
  readonly tokens: ReadonlyMap<string, string>;
  /** A node heard of a workload, or that it is gone. */
  readonly onHeard: (node: number, uid: string) => void;
}

export function startNodes(options: SimulatedNodesOptions): SimulatedNodes {
  const { clock, controller, tokens, onHeard } = options;
  const parts = { clock, readBuffers: createReadBuffers(), windowBudget: createWindowBudget() };
  const stop = new AbortController();
  const held: Set<string>[] = [];
  const tunnelled = new Set<string>();
  let updates = 0;
  const running = [...tokens].map(([node, token], index) => {
    const addresses = new Set<string>();
    held.push(addresses);
    const pods = new Set<string>();
    const plain = (typeUrl: string): TypeSubscription => ({
      typeUrl,
      mode: 'wildcard',
      apply: () => Promise.resolve([]),
    });
    const client = createDiscoveryClient({
      clock,
      random: createSystemRandom(),
      logger: createNullLogger(),
      registry: createNullRegistry(),
      connect: (signal) => dialController(parts, controller, () => [], signal),
      token: () => Promise.resolve(token),
      node: { id: `nodemesh~${node}`, cluster: '', metadata: new Map([['NODE_NAME', node]]) },
      authority: controller.name,
      subscriptions: [
        plain(TYPE_URL.nodeSettings),
        plain(TYPE_URL.trustBundle),
        plain(TYPE_URL.authorization),
        {
          typeUrl: TYPE_URL.address,
          mode: 'wildcard',
          apply({ resources, removed }) {
            updates++;
            for (const { name, body } of resources) {
              addresses.add(name);
              onHeard(index, name);
              if (index !== 0) continue;
              const address = decodeAddress(body);
              const isTunnelled =
                address.ok &&
                address.value.kind === 'workload' &&
                address.value.workload.tunnelProtocol === 'hbone';
              if (isTunnelled) tunnelled.add(name);
              else tunnelled.delete(name);
            }
            for (const name of removed) {
              addresses.delete(name);
              tunnelled.delete(name);
              onHeard(index, name);
            }
            return Promise.resolve([]);
          },
        },
        {
          typeUrl: TYPE_URL.localPod,
          mode: 'wildcard',
          apply({ resources, removed }) {
            for (const { name } of resources) pods.add(name);
            for (const name of removed) pods.delete(name);
            const reports = [...pods].map((uid) =>
              captureReportResource({ podUid: uid as PodUid, state: 'captured', reason: '' }),
            );
            client.report(TYPE_URL.captureReport, reports);
            return Promise.resolve([]);
          },
        },
      ],
    });
    return client.run(stop.signal);
  });
  return {
    held: () => held.map((addresses) => addresses.size),
    tunnelled: () => tunnelled.size,
    updates: () => updates,
    async stop() {
      stop.abort();
      await Promise.allSettled(running);
    },
  };
}
