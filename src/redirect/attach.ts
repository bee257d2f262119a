/**
 * Attaching one pod: its namespace verified, its sysctl, routes and rules set; and taking them away again
 * without cutting a connection. Applying is idempotent, so that a restarted agent simply attaches again.
 */

import { MeshError } from '../base/errors.ts';
import { parseAddress, type IpAddress } from '../core/address.ts';
import type { CapturedPod, LocalPod } from '../core/pod.ts';
import { runCommand } from '../linux/commands.ts';
import type { NetworkNamespace } from '../linux/namespaces.ts';
import { readSysctl, writeSysctl } from '../linux/sysctl.ts';
import { openPodNamespace, type RedirectContext } from './context.ts';
import {
  formatPodRules,
  formatPodRulesDetached,
  formatPodRulesRemoval,
  formatPodRulesReplacing,
  formatRouteCommands,
  formatRouteQuery,
  formatRouteRemoval,
  parseRouteState,
  RULE_TABLE,
} from './rules.ts';

/**
 * A pod whose redirection stands. Holds its namespace open until `release` or `close`. Acts on one pod run one
 * after the other, so a repair never undoes a detach.
 */
export interface AttachedPod {
  readonly captured: CapturedPod;
  readonly namespace: NetworkNamespace;
  /** What stands differently from what was set, as words; empty when all is well, and when not attached. */
  check(): Promise<readonly string[]>;
  /** Whether our rules stand in any form, attached or detached. */
  isPresent(): Promise<boolean>;
  /** Checks, and sets everything again if anything is found; answers what was found. */
  repair(): Promise<readonly string[]>;
  /** Sets everything again (also after `detach`). */
  apply(): Promise<void>;
  /** Ends redirection of new connections; captured ones go on. `apply` takes it back. */
  detach(): Promise<void>;
  /** Removes every trace and closes. Only once no captured connection is left: those would be reset. */
  release(): Promise<void>;
  /** Closes the namespace and leaves everything standing, as on shutdown. Idempotent. */
  close(): void;
}

const MIGRATE = 'net.ipv4.tcp_migrate_req';
type Family = 'ipv4' | 'ipv6';

/**
 * Redirects a pod. From its first step on, new connections go to 15001 and 15006 and are refused where nobody
 * listens. Rejects with `MESH_NAMESPACE_MISMATCH` for a namespace that cannot be the pod's and with
 * `MESH_RULES_FAILED` when something cannot be set; then what was set stays, refusing.
 */
export async function attachPod(
  context: RedirectContext,
  captured: CapturedPod,
): Promise<AttachedPod> {
  const { netnsPath, netnsInode, pod } = captured;
  const namespace = openPodNamespace(context, netnsPath, netnsInode);
  try {
    await vetoByAddress(context, namespace, pod);
    const attached = createAttachedPod(context, captured, namespace);
    await attached.apply();
    return attached;
  } catch (error) {
    namespace.close();
    throw error;
  }
}

/**
 * A handle on what an earlier agent may have left in a pod, changing nothing: to `detach` and `release` a pod that
 * was un-enrolled while no agent lived. `check` and `repair` find nothing until `apply`.
 */
export function adoptPod(context: RedirectContext, captured: CapturedPod): AttachedPod {
  const namespace = openPodNamespace(context, captured.netnsPath, captured.netnsInode);
  return createAttachedPod(context, captured, namespace);
}

/** Addresses in a namespace prove nothing (NET_ADMIN sets them); none of the pod's own is proof against (T47). */
async function vetoByAddress(
  context: RedirectContext,
  namespace: NetworkNamespace,
  pod: LocalPod,
): Promise<void> {
  if (pod.addresses.length === 0) return;
  const present = await listAddresses(context, namespace);
  if (pod.addresses.some((address) => present.has(address))) return;
  const wanted = pod.addresses.map((address) => `"${address}"`).join(', ');
  throw new MeshError(
    'MESH_NAMESPACE_MISMATCH',
    `Namespace "${namespace.path}" is not that of pod "${pod.namespace}/${pod.name}": ${wanted} not there`,
    { retryable: true, details: { present: [...present].slice(0, 16) } },
  );
}

/** The addresses of a namespace's interfaces, also of those that are down. */
async function listAddresses(
  context: RedirectContext,
  namespace: NetworkNamespace,
): Promise<ReadonlySet<IpAddress>> {
  const args = ['-o', 'addr', 'show'];
  const { stdout } = await runCommand(context.native, context.clock, 'ip', args, { namespace });
  const addresses = new Set<IpAddress>();
  for (const [, text = ''] of stdout.matchAll(/ inet6? ([0-9a-f.:]+)[/ ]/g)) {
    const address = parseAddress(text);
    if (address.ok) addresses.add(address.value);
  }
  return addresses;
}

function createAttachedPod(
  context: RedirectContext,
  captured: CapturedPod,
  namespace: NetworkNamespace,
): AttachedPod {
  const { native, clock } = context;
  const { pod } = captured;
  /** `nft list` after our own apply: what it must say until we apply again. */
  let standing: string | undefined;
  let attached = false;

  let last: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(act: () => Promise<T>): Promise<T> => {
    const turn = last.then(act);
    last = turn.catch(() => undefined);
    return turn;
  };

  const nft = (input: string): Promise<unknown> =>
    runCommand(native, clock, 'nft', ['-f', '-'], { namespace, input });
  const ip = async (family: Family, input: string, force = false): Promise<string> => {
    const args = [family === 'ipv4' ? '-4' : '-6', ...(force ? ['-force'] : []), '-batch', '-'];
    const { stdout } = await runCommand(native, clock, 'ip', args, { namespace, input });
    return stdout;
  };
  // -s: without counters. Sets, chains and policies are all in it, so tampering with any of them shows.
  const listRules = async (): Promise<string> => {
    const args = ['-s', 'list', 'table', ...RULE_TABLE.split(' ')];
    return (await runCommand(native, clock, 'nft', args, { namespace })).stdout;
  };
  const families = (): readonly Family[] =>
    hasIpv6(context, namespace) ? ['ipv4', 'ipv6'] : ['ipv4'];

  const applyRules = async (): Promise<void> => {
    try {
      await nft(formatPodRules(pod.probePorts));
    } catch (error) {
      // Something else stands under our table's name, say a chain with another hook. Captured connections
      // of this pod are reset by the replacement; a pod that tampers harms itself alone.
      context.logger.warn('rules do not fit what stands, replacing the table', { error });
      await nft(formatPodRulesReplacing(pod.probePorts));
    }
    standing = await listRules();
  };
  const applyRoutes = async (family: Family): Promise<void> => {
    const { hasRule } = parseRouteState(await ip(family, formatRouteQuery()));
    await ip(family, formatRouteCommands(family, hasRule));
  };

  const findings = async (): Promise<string[]> => {
    const found: string[] = [];
    // Fails when the table is gone, and with it everything.
    const rules = await listRules().catch(() => undefined);
    if (rules !== standing) found.push(rules === undefined ? 'rules are gone' : 'rules differ');
    for (const family of families()) {
      const state = parseRouteState(await ip(family, formatRouteQuery()));
      if (!state.hasRule) found.push(`${family} routing rule is gone`);
      if (!state.hasRoute) found.push(`${family} route is gone`);
    }
    if (readSysctl(native, namespace, MIGRATE) !== '1') found.push(`${MIGRATE} is off`);
    return found;
  };

  const applyAll = async (): Promise<void> => {
    try {
      writeSysctl(native, namespace, MIGRATE, '1');
      // Routes before rules: a captured connection's answers need them at once.
      for (const family of families()) await applyRoutes(family);
      await applyRules();
      attached = true;
    } catch (error) {
      throw rulesFailed('set', pod, error);
    }
  };
  const detach = async (): Promise<void> => {
    attached = false;
    await nft(formatPodRulesDetached()).catch((error: unknown) => {
      throw rulesFailed('flush', pod, error);
    });
  };
  const release = async (): Promise<void> => {
    attached = false;
    try {
      await nft(formatPodRulesRemoval());
      for (const family of families()) {
        // Fails for what is gone already, after doing the rest.
        await ip(family, formatRouteRemoval(), true).catch(() => '');
      }
    } catch (error) {
      throw rulesFailed('remove', pod, error);
    } finally {
      namespace.close();
    }
  };

  return {
    captured,
    namespace,
    check: () => inTurn(async () => (attached ? findings() : [])),
    isPresent: () =>
      inTurn(() =>
        listRules().then(
          () => true,
          // nft fails for a table that is not there.
          () => false,
        ),
      ),
    apply: () => inTurn(applyAll),
    detach: () => inTurn(detach),
    release: () => inTurn(release),
    repair: () =>
      inTurn(async () => {
        const found = attached ? await findings() : [];
        if (found.length > 0) await applyAll();
        return found;
      }),
    close() {
      attached = false;
      namespace.close();
    },
  };
}

/** Whether the namespace has IPv6 at all, on its loopback, where the route of answers points. */
function hasIpv6(context: RedirectContext, namespace: NetworkNamespace): boolean {
  try {
    const off = readSysctl(context.native, namespace, 'net.ipv6.conf.lo.disable_ipv6');
    return off === '0';
  } catch {
    return false;
  }
}

function rulesFailed(action: string, pod: LocalPod, cause: unknown): MeshError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const message = `Cannot ${action} the rules of pod "${pod.namespace}/${pod.name}": ${reason}`;
  return new MeshError('MESH_RULES_FAILED', message, { cause, retryable: true });
}
