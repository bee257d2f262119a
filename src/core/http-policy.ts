/**
 * What a waypoint decides requests by, as plain values: AuthorizationPolicy with all its L7 fields, and
 * RequestAuthentication. AND and OR are those of `core/policy.ts`; every clause carries what it came from, so that a
 * refusal can say which one it was.
 */

import type { Cidr } from './address.ts';
import type { PolicyAction, PolicyMatch, StringMatch } from './policy.ts';
import type { ServiceKey } from './workload.ts';

/** A header or claim by name. Both lists may be set; at least one is. */
export interface HeaderMatch {
  /** Lower case. */
  readonly name: string;
  readonly values: readonly StringMatch[];
  readonly notValues: readonly StringMatch[];
}

export interface ClaimMatch {
  /** Keys from the outside in: `['realm', 'roles']`. */
  readonly path: readonly string[];
  readonly values: readonly StringMatch[];
  readonly notValues: readonly StringMatch[];
}

/** Empty lists are fields that are not set; a match with no field set is skipped. */
export interface HttpPolicyMatch extends PolicyMatch {
  readonly methods: readonly StringMatch[];
  readonly notMethods: readonly StringMatch[];
  /** Compared with the normalised path, without query. */
  readonly paths: readonly StringMatch[];
  readonly notPaths: readonly StringMatch[];
  /** Lower case. */
  readonly hosts: readonly StringMatch[];
  readonly notHosts: readonly StringMatch[];
  /** `iss/sub` of a verified token. */
  readonly requestPrincipals: readonly StringMatch[];
  readonly notRequestPrincipals: readonly StringMatch[];
  /** The client before trusted hops. */
  readonly remoteIps: readonly Cidr[];
  readonly notRemoteIps: readonly Cidr[];
  readonly headers: readonly HeaderMatch[];
  readonly claims: readonly ClaimMatch[];
}

export interface HttpPolicyClause {
  /** `from`, `to` or the key of a condition, for whoever reads a refusal. */
  readonly label: string;
  readonly matches: readonly HttpPolicyMatch[];
}

export interface HttpPolicyRule {
  readonly clauses: readonly HttpPolicyClause[];
}

export interface HttpPolicy {
  /** `namespace/name`. */
  readonly key: string;
  readonly name: string;
  readonly namespace: string;
  readonly action: PolicyAction;
  readonly rules: readonly HttpPolicyRule[];
  /** Of the services bound to the waypoint; empty: all of them. */
  readonly services: readonly ServiceKey[];
  readonly dryRun: boolean;
  /** Whether a refused caller is told which policy and clause refused it. */
  readonly explain: boolean;
  /** Content we do not know: its targets are denied (T104). Empty when everything was understood. */
  readonly unknown: string;
}

export interface TokenHeader {
  /** Lower case. */
  readonly name: string;
  /** What stands before the token, e.g. `Bearer `. */
  readonly prefix: string;
}

export interface ClaimHeader {
  /** Lower case. */
  readonly header: string;
  readonly path: readonly string[];
}

/** Tokens of one issuer. */
export interface JwtRule {
  readonly issuer: string;
  /** One of them must be in `aud`; empty: any. */
  readonly audiences: readonly string[];
  /** A JWKS document, or empty: fetched from `jwksUri`. */
  readonly jwks: string;
  readonly jwksUri: string;
  /** Where tokens are looked for. All three empty: `authorization: Bearer`, and the parameter `access_token`. */
  readonly fromHeaders: readonly TokenHeader[];
  readonly fromParams: readonly string[];
  readonly fromCookies: readonly string[];
  /** The payload goes upstream here, base64url; empty: it does not. */
  readonly outputPayloadHeader: string;
  readonly outputClaims: readonly ClaimHeader[];
  /** Whether the token itself goes upstream. */
  readonly forwardToken: boolean;
  readonly timeoutMs: number;
}

export interface RequestAuthentication {
  /** `namespace/name`. */
  readonly key: string;
  readonly name: string;
  readonly namespace: string;
  readonly services: readonly ServiceKey[];
  readonly rules: readonly JwtRule[];
  readonly unknown: string;
}
