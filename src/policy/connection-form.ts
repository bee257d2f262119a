/**
 * An L7 policy as it reads for a connection whose bytes nobody understands: what only a request has makes it stricter,
 * never weaker, as with node proxies. An ALLOW rule with such a part is dropped whole; DENY and AUDIT lose the part and
 * so match more. So nobody gets around a policy by not speaking HTTP.
 */

import type { HttpPolicy, HttpPolicyClause, HttpPolicyMatch } from '../core/http-policy.ts';

const REQUEST_FIELDS = [
  'methods',
  'notMethods',
  'paths',
  'notPaths',
  'hosts',
  'notHosts',
  'requestPrincipals',
  'notRequestPrincipals',
  'remoteIps',
  'notRemoteIps',
  'headers',
  'claims',
] as const satisfies readonly (keyof HttpPolicyMatch)[];

export function connectionForm(policy: HttpPolicy): HttpPolicy {
  const rules =
    policy.action === 'ALLOW'
      ? policy.rules.filter(({ clauses }) => !clauses.some(needsRequest))
      : policy.rules.map(({ clauses }) => ({ clauses: clauses.flatMap(withoutRequest) }));
  return { ...policy, rules };
}

function needsRequest({ matches }: HttpPolicyClause): boolean {
  return matches.some((match) => REQUEST_FIELDS.some((field) => match[field].length > 0));
}

/** A match of which nothing is left is true for everybody, and with it its clause. */
function withoutRequest(clause: HttpPolicyClause): HttpPolicyClause[] {
  if (!needsRequest(clause)) return [clause];
  const emptied = Object.fromEntries(REQUEST_FIELDS.map((field) => [field, []]));
  const matches = clause.matches.map((match): HttpPolicyMatch => ({ ...match, ...emptied }));
  const isEmpty = (match: HttpPolicyMatch): boolean =>
    Object.values(match).every((list: readonly unknown[]) => list.length === 0);
  return matches.some(isEmpty) ? [] : [{ ...clause, matches }];
}
