/**
 * Where a connection that is not HTTP goes: by TCPRoute, or by TLSRoute and the server name the client asks for. An exact
 * name beats a wildcard, a longer wildcard a shorter one; then the older route (Gateway API).
 */

import type { Random } from '../base/random.ts';
import type { Backend, ConnectionRule } from '../core/route.ts';

/** Undefined: no rule fits. `invalid` set on the backend, or none with a weight: the connection is refused. */
export function chooseConnectionRule(
  rules: readonly ConnectionRule[],
  serverName: string,
): ConnectionRule | undefined {
  let best: ConnectionRule | undefined;
  let bestRank = -1;
  for (const rule of rules) {
    const rank = Math.max(
      ...(rule.hostnames.length === 0
        ? [0]
        : rule.hostnames.map((name) => rankOf(name, serverName))),
    );
    if (rank < 0) continue;
    const better =
      rank > bestRank || (rank === bestRank && best !== undefined && precedes(rule, best));
    if (better) [best, bestRank] = [rule, rank];
  }
  return best;
}

const EXACT = 1_000_000;

/** -1: does not match. */
function rankOf(hostname: string, serverName: string): number {
  if (hostname === '') return 0;
  if (!hostname.startsWith('*.')) return hostname === serverName ? EXACT : -1;
  const suffix = hostname.slice(1);
  return serverName.length > suffix.length && serverName.endsWith(suffix) ? hostname.length : -1;
}

function precedes(a: ConnectionRule, b: ConnectionRule): boolean {
  if (a.route.createdMs !== b.route.createdMs) return a.route.createdMs < b.route.createdMs;
  const [left, right] = [a, b].map(({ route }) => `${route.namespace}/${route.name}`);
  return left === right ? a.index < b.index : (left ?? '') < (right ?? '');
}

/** By weight; undefined: none can be used. */
export function chooseConnectionBackend(rule: ConnectionRule, random: Random): Backend | undefined {
  let total = 0;
  for (const { weight } of rule.backends) total += weight;
  let left = random.next() * total;
  for (const { backend, weight } of rule.backends) {
    left -= weight;
    if (left < 0) return backend.invalid === '' ? backend : undefined;
  }
  return undefined;
}
