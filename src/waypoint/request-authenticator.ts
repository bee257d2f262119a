/**
 * RequestAuthentication: whose token a request carries. As Istio's: a request without a token passes as nobody (a policy
 * may demand one), a token that does not verify is refused with 401.
 *
 * - The algorithm must be of a closed list of signatures and fit the configured key; what the token says about itself
 *   chooses nothing (T91). Issuer, audience, `exp` and `nbf` are checked with a minute of tolerance.
 * - Headers that carry claims upstream are ours: what a client sent under their names is gone (T89).
 * - A token that has verified is remembered by its hash until it expires or the keys change.
 */

import { hash } from 'node:crypto';

import { decodeJwt, errors, jwtVerify, type JWTPayload } from 'jose';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { JwtRule, RequestAuthentication } from '../core/http-policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { HeaderField, HeaderList } from '../http/h2/contract.ts';
import { claimTexts, type RequestPrincipal } from '../policy/http-match.ts';
import type { JwksStore, KeySet } from './jwks.ts';
import { findToken, withoutToken } from './token-places.ts';

export interface Authenticated {
  /** Undefined: no token. */
  readonly principal: RequestPrincipal | undefined;
  /** The request's, with what the rules put in and take out. */
  readonly headers: HeaderList;
}

export interface RequestAuthenticator {
  apply(
    changed: readonly RequestAuthentication[],
    removed: readonly string[],
    complete: boolean,
  ): void;
  /**
   * A promise only when a signature has to be checked. A `MeshError` is a refusal: MESH_TOKEN_INVALID and
   * MESH_JWKS_UNAVAILABLE are 401, MESH_CONFIG_UNAVAILABLE is 503.
   */
  authenticate(
    service: ServiceKey | undefined,
    headers: HeaderList,
    query: string,
  ): Authenticated | MeshError | Promise<Authenticated | MeshError>;
  readonly size: number;
}

const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
];
const SKEW_S = 60;
const TOKEN_CHARS_MAX = 8_192;
const REMEMBERED_MAX = 10_000;
/** Keys tried for a token without a key id. */
const KEYS_TRIED_MAX = 8;

interface Remembered {
  readonly rule: JwtRule;
  readonly keysVersion: number;
  readonly expiresMs: number;
  readonly principal: RequestPrincipal;
}

function refuse(reason: string): MeshError {
  return new MeshError('MESH_TOKEN_INVALID', `Cannot accept the token: ${reason}`, {
    flag: 'DENY',
  });
}

export function createRequestAuthenticator(clock: Clock, jwks: JwksStore): RequestAuthenticator {
  const objects = new Map<string, RequestAuthentication>();
  const inlineKeys = new Map<string, KeySet | undefined>();
  const remembered = new Map<string, Remembered>();
  let synced = false;
  const byService = new Map<ServiceKey | undefined, readonly RequestAuthentication[]>();

  const objectsFor = (service: ServiceKey | undefined): readonly RequestAuthentication[] => {
    let found = byService.get(service);
    if (found === undefined) {
      found = [...objects.values()].filter(
        ({ services }) =>
          services.length === 0 || (service !== undefined && services.includes(service)),
      );
      byService.set(service, found);
    }
    return found;
  };
  const keysOf = (rule: JwtRule): ReturnType<JwksStore['keys']> => {
    if (rule.jwks === '') return jwks.keys(rule.jwksUri, rule.timeoutMs);
    if (!inlineKeys.has(rule.jwks)) {
      const parsed = jwks.inline(rule.jwks);
      inlineKeys.set(rule.jwks, parsed.ok ? parsed.value : undefined);
    }
    return inlineKeys.get(rule.jwks);
  };

  const verify = async (
    token: string,
    rule: JwtRule,
    keys: KeySet,
  ): Promise<RequestPrincipal | MeshError> => {
    const options = {
      algorithms: ALGORITHMS,
      issuer: rule.issuer,
      clockTolerance: SKEW_S,
      currentDate: new Date(clock.wallMs()),
      ...(rule.audiences.length === 0 ? {} : { audience: [...rule.audiences] }),
    };
    const principalOf = (claims: JWTPayload): RequestPrincipal => ({
      principal: `${rule.issuer}/${claims.sub ?? ''}`,
      claims,
    });
    try {
      return principalOf((await jwtVerify(token, keys.find, options)).payload);
    } catch (error) {
      if (!(error instanceof errors.JWKSMultipleMatchingKeys)) return asRefusal(error);
      let tried = 0;
      for await (const key of error) {
        if (++tried > KEYS_TRIED_MAX) break;
        try {
          return principalOf((await jwtVerify(token, key, options)).payload);
        } catch (failed) {
          if (!(failed instanceof errors.JWSSignatureVerificationFailed)) return asRefusal(failed);
        }
      }
      return refuse('no key verifies it');
    }
  };

  const check = async (
    token: string,
    rule: JwtRule,
    digest: string,
  ): Promise<RequestPrincipal | MeshError> => {
    let keys = await keysOf(rule);
    if (keys === undefined) return noKeys(rule);
    let result = await verify(token, rule, keys);
    if (result instanceof MeshError && result.details['unknownKey'] === true && rule.jwks === '') {
      const fresh = await jwks.refreshed(rule.jwksUri, rule.timeoutMs);
      if (fresh !== undefined && fresh.version !== keys.version) {
        keys = fresh;
        result = await verify(token, rule, keys);
      }
    }
    if (result instanceof MeshError) return result;
    const { exp } = result.claims;
    const expiresMs = typeof exp === 'number' ? (exp + SKEW_S) * 1_000 : Infinity;
    if (remembered.size >= REMEMBERED_MAX) {
      for (const oldest of remembered.keys()) {
        remembered.delete(oldest);
        break;
      }
    }
    remembered.set(digest, { rule, keysVersion: keys.version, expiresMs, principal: result });
    return result;
  };

  const authenticate: RequestAuthenticator['authenticate'] = (service, headers, query) => {
    if (!synced) {
      const message = 'Cannot authenticate: the configuration has not arrived yet';
      return new MeshError('MESH_CONFIG_UNAVAILABLE', message, { flag: 'CONFIG' });
    }
    const governing = objectsFor(service);
    if (governing.length === 0) return { principal: undefined, headers };
    const unknown = governing.find((object) => object.unknown !== '');
    if (unknown !== undefined) {
      const message = `Cannot authenticate: RequestAuthentication ${unknown.key} is not understood: ${unknown.unknown}`;
      return new MeshError('MESH_CONFIG_UNAVAILABLE', message, { flag: 'CONFIG' });
    }
    const rules = governing.flatMap((object) => object.rules);
    const own = withoutOutputs(rules, headers);
    const found = findToken(rules, own, query);
    if (found === undefined) return { principal: undefined, headers: own };
    if (typeof found === 'string') return refuse(found);
    const { token } = found;
    if (token.length > TOKEN_CHARS_MAX) return refuse('it is too long');
    const rule = ruleFor(found.token, found.rules);
    if (rule instanceof MeshError) return rule;
    const finish = (principal: RequestPrincipal): Authenticated => ({
      principal,
      headers: upstreamHeaders(rule, rules, own, token, principal),
    });
    const digest = hash('sha256', token, 'base64');
    const known = remembered.get(digest);
    if (known?.rule === rule && clock.wallMs() < known.expiresMs) {
      const keys = keysOf(rule);
      if (keys !== undefined && 'version' in keys && keys.version === known.keysVersion) {
        return finish(known.principal);
      }
    }
    return check(token, rule, digest).then((result) =>
      result instanceof MeshError ? result : finish(result),
    );
  };

  return {
    get size() {
      return objects.size;
    },
    apply(changed, removed, complete) {
      for (const key of removed) objects.delete(key);
      for (const object of changed) objects.set(object.key, object);
      synced ||= complete;
      byService.clear();
      inlineKeys.clear();
      remembered.clear();
      const rules = [...objects.values()].flatMap((object) => object.rules);
      const urls = new Set(rules.filter(({ jwks: own }) => own === '').map((rule) => rule.jwksUri));
      jwks.retain(urls);
      // Asked for before the first request needs them.
      for (const rule of rules) if (rule.jwks === '') void jwks.keys(rule.jwksUri, rule.timeoutMs);
    },
    authenticate,
  };
}

function noKeys(rule: JwtRule): MeshError {
  const message = `Cannot accept the token: no keys of issuer "${rule.issuer.slice(0, 200)}" can be had`;
  return new MeshError('MESH_JWKS_UNAVAILABLE', message, { flag: 'DENY' });
}

/** The rule of the token's own issuer; what it claims is verified later. */
function ruleFor(token: string, rules: readonly JwtRule[]): JwtRule | MeshError {
  try {
    const { iss } = decodeJwt(token);
    return rules.find(({ issuer }) => issuer === iss) ?? refuse('its issuer is not configured');
  } catch {
    return refuse('it is malformed');
  }
}

function asRefusal(error: unknown): MeshError {
  if (error instanceof errors.JWKSNoMatchingKey) {
    const message = 'Cannot accept the token: no key verifies it';
    return new MeshError('MESH_TOKEN_INVALID', message, {
      flag: 'DENY',
      details: { unknownKey: true },
    });
  }
  return refuse(error instanceof errors.JOSEError ? error.message : 'it is malformed');
}

/** Nobody but us writes the headers that carry claims. */
function withoutOutputs(rules: readonly JwtRule[], headers: HeaderList): HeaderList {
  const names = new Set(
    rules.flatMap((rule) => [
      rule.outputPayloadHeader,
      ...rule.outputClaims.map(({ header }) => header),
    ]),
  );
  return headers.some(([name]) => names.has(name))
    ? headers.filter(([name]) => !names.has(name))
    : headers;
}

function upstreamHeaders(
  rule: JwtRule,
  rules: readonly JwtRule[],
  headers: HeaderList,
  token: string,
  principal: RequestPrincipal,
): HeaderList {
  const kept = rule.forwardToken ? headers : withoutToken(rules, headers, token);
  const added: HeaderField[] = [];
  if (rule.outputPayloadHeader !== '') {
    added.push([rule.outputPayloadHeader, token.split('.')[1] ?? '']);
  }
  for (const { header, path } of rule.outputClaims) {
    const [text] = claimTexts(principal.claims, path);
    // A claim is the issuer's text: what a header cannot hold does not go into one.
    if (text !== undefined && /^[\x20-\x7e]{1,1024}$/.test(text)) added.push([header, text]);
  }
  return added.length === 0 ? kept : [...kept, ...added];
}
