/**
 * Kubelet probes, told apart in the node's own network namespace: there, and only there, a packet's socket
 * owner is known. What the node's own processes send to an enrolled pod's declared probe port leaves with a
 * reserved source, which the pod's rules let through; answers come back through the pod's default route and are
 * translated back here. Facts tried on Linux 6.18:
 *
 * - `meta skuid` matches only packets with a local socket: forwarded and masqueraded ones have none;
 * - nobody else may send from that source, so packets that arrive with it are dropped (T28): in `inet` for
 *   routed pods and other machines, in `bridge` for pods that share a bridge and never meet the IP hooks.
 */

import { isIPv4 } from 'node:net';

import { MeshError } from '../base/errors.ts';
import type { IpAddress } from '../core/address.ts';
import { PROBE_SOURCE_IPV4, PROBE_SOURCE_IPV6 } from '../core/pod.ts';
import { runCommand } from '../linux/commands.ts';
import type { RedirectContext } from './context.ts';

/** One pod address and one port on which it declared a probe. */
export interface ProbeTarget {
  readonly ip: IpAddress;
  readonly port: number;
}

export interface ProbeRulesOptions {
  /** The user whose sockets are the kubelet's. Default 0. */
  readonly kubeletUid?: number;
}

export const PROBE_TABLE = 'nodemesh_probes';
/** 250 pods with two addresses and eight ports each. */
export const PROBE_TARGETS_MAX = 4_096;

function elements(targets: readonly ProbeTarget[]): string {
  return targets.map(({ ip, port }) => `${ip} . ${port}`).join(', ');
}

/** The node's rules as one transaction for `nft -f`, whether or not an earlier version stands. */
export function formatProbeRules(
  targets: readonly ProbeTarget[],
  options: ProbeRulesOptions = {},
): string {
  const uid = options.kubeletUid ?? 0;
  const ipv4 = elements(targets.filter(({ ip }) => isIPv4(ip)));
  const ipv6 = elements(targets.filter(({ ip }) => !isIPv4(ip)));
  const table = `inet ${PROBE_TABLE}`;
  return `table ${table} {
  set targets_ipv4 {
    type ipv4_addr . inet_service
  }
  set targets_ipv6 {
    type ipv6_addr . inet_service
  }
  chain arriving {
    type filter hook prerouting priority raw; policy accept;
  }
  chain passing {
    type filter hook forward priority filter - 10; policy accept;
  }
  chain leaving {
    type nat hook postrouting priority srcnat - 10; policy accept;
  }
}
flush table ${table}
flush set ${table} targets_ipv4
flush set ${table} targets_ipv6
table ${table} {
  chain arriving {
    iif != lo ip saddr ${PROBE_SOURCE_IPV4} drop
    iif != lo ip6 saddr ${PROBE_SOURCE_IPV6} drop
  }
  chain passing {
    ip daddr ${PROBE_SOURCE_IPV4} drop
    ip6 daddr ${PROBE_SOURCE_IPV6} drop
  }
  chain leaving {
    meta skuid ${uid} ip daddr . tcp dport @targets_ipv4 snat ip to ${PROBE_SOURCE_IPV4}
    meta skuid ${uid} ip6 daddr . tcp dport @targets_ipv6 snat ip6 to ${PROBE_SOURCE_IPV6}
  }
}
${ipv4 === '' ? '' : `add element ${table} targets_ipv4 { ${ipv4} }\n`}${ipv6 === '' ? '' : `add element ${table} targets_ipv6 { ${ipv6} }\n`}`;
}

/** Between pods on one bridge. A transaction of its own: a kernel may lack nftables for bridges. */
export function formatBridgeRules(): string {
  const table = `bridge ${PROBE_TABLE}`;
  return `table ${table} {
  chain arriving {
    type filter hook prerouting priority -300; policy accept;
  }
}
flush table ${table}
table ${table} {
  chain arriving {
    ip saddr ${PROBE_SOURCE_IPV4} drop
    ip6 saddr ${PROBE_SOURCE_IPV6} drop
  }
}
`;
}

export interface ProbeRules {
  /** Replaces the targets, all at once; also puts back rules that are gone. Calls run one after the other. */
  apply(targets: readonly ProbeTarget[]): Promise<void>;
  /** Removes everything from the node's namespace. */
  remove(): Promise<void>;
}

/** Rejects with `MESH_RULES_FAILED`; probes of STRICT pods fail then, nothing else does. */
export function createProbeRules(
  context: RedirectContext,
  options: ProbeRulesOptions = {},
): ProbeRules {
  const { native, clock, logger, nodeNamespace: namespace } = context;
  let last: Promise<unknown> = Promise.resolve();
  const inTurn = (act: () => Promise<void>): Promise<void> => {
    const turn = last.then(act);
    last = turn.catch(() => undefined);
    return turn;
  };
  const nft = async (input: string): Promise<void> => {
    try {
      await runCommand(native, clock, 'nft', ['-f', '-'], { namespace, input });
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      const message = `Cannot set the node's probe rules: ${reason}`;
      throw new MeshError('MESH_RULES_FAILED', message, { cause, retryable: true });
    }
  };
  return {
    apply: (targets) =>
      inTurn(async () => {
        if (targets.length > PROBE_TARGETS_MAX) {
          const message = `Cannot set ${targets.length} probe targets: ${PROBE_TARGETS_MAX} at most`;
          throw new MeshError('MESH_LIMIT_EXCEEDED', message);
        }
        // The guard stands before anything is let through because of it.
        await nft(formatBridgeRules()).catch((error: unknown) => {
          logger.warn('no guard between pods of one bridge', { error });
        });
        await nft(formatProbeRules(targets, options));
      }),
    remove: () =>
      inTurn(async () => {
        for (const family of ['inet', 'bridge']) {
          const table = `${family} ${PROBE_TABLE}`;
          const removal = `table ${table} {\n}\ndelete table ${table}\n`;
          await nft(removal).catch((error: unknown) => {
            if (family === 'inet') throw error;
          });
        }
      }),
  };
}
