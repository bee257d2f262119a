/** Reads RequestAuthentication of the group `nodemesh.dev`, in the shape of Istio's. Strict, as `mesh-kinds.ts` is. */

import { parseDuration } from '../../core/duration.ts';
import type { ClaimHeader, JwtRule, TokenHeader } from '../../core/http-policy.ts';
import type { ObjectMeta, RequestAuthenticationObject } from '../objects.ts';
import type { Fields } from './fields.ts';
import { readTargetRefs } from './mesh-kinds.ts';

const RULES_MAX = 64;
const PLACES_MAX = 64;
const TIMEOUT_DEFAULT_MS = 2_000;
const TIMEOUT_MAX_MS = 30_000;
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/;
/** Written by the codec or the waypoint itself, never from a claim. */
const RESERVED =
  /^(?:host|connection|content-length|transfer-encoding|te|trailer|upgrade|keep-alive|authorization|x-nodemesh-.*)$/;

export function readRequestAuthentication(
  root: Fields,
  meta: ObjectMeta,
): RequestAuthenticationObject {
  const spec = root.object('spec');
  const targets = readTargetRefs(spec);
  if (targets.length === 0) {
    root.problem('spec', 'needs targetRefs: requests are authenticated by waypoints');
  }
  const rules = (spec?.objects('jwtRules', RULES_MAX) ?? []).map(readRule);
  spec?.refuseUnknown();
  return { kind: 'RequestAuthentication', meta, targets, rules, invalid: '' };
}

function readRule(fields: Fields): JwtRule {
  const issuer = fields.string('issuer');
  if (issuer === '') fields.problem('issuer', 'is missing');
  const jwks = fields.string('jwks');
  const jwksUri = fields.string('jwksUri');
  if ((jwks === '') === (jwksUri === ''))
    fields.problem(undefined, 'needs one of jwks and jwksUri');
  if (jwksUri !== '' && !/^https?:$/.test(URL.parse(jwksUri)?.protocol ?? '')) {
    fields.problem('jwksUri', 'is not an HTTP URL');
  }
  if (jwks !== '' && !isKeySet(jwks)) fields.problem('jwks', 'is not a JSON Web Key Set');
  const rule: JwtRule = {
    issuer,
    audiences: fields.strings('audiences', PLACES_MAX),
    jwks,
    jwksUri,
    fromHeaders: fields.objects('fromHeaders', PLACES_MAX).map(readTokenHeader),
    fromParams: fields.strings('fromParams', PLACES_MAX),
    fromCookies: fields.strings('fromCookies', PLACES_MAX),
    outputPayloadHeader: readOutput(fields, 'outputPayloadToHeader'),
    outputClaims: fields.objects('outputClaimToHeaders', PLACES_MAX).map(readClaimHeader),
    forwardToken: fields.boolean('forwardOriginalToken'),
    timeoutMs: readTimeout(fields),
  };
  fields.refuseUnknown();
  return rule;
}

function isKeySet(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return (
      typeof value === 'object' && value !== null && 'keys' in value && Array.isArray(value.keys)
    );
  } catch {
    return false;
  }
}

function readHeaderName(fields: Fields, key: string): string {
  const name = fields.string(key).toLowerCase();
  if (!HEADER_NAME.test(name)) fields.problem(key, 'is not the name of a header');
  return name;
}

function readTokenHeader(fields: Fields): TokenHeader {
  const header = { name: readHeaderName(fields, 'name'), prefix: fields.string('prefix') };
  fields.refuseUnknown();
  return header;
}

function readOutput(fields: Fields, key: string): string {
  if (!fields.has(key)) return '';
  const name = readHeaderName(fields, key);
  if (RESERVED.test(name)) fields.problem(key, 'is a header that cannot carry a claim');
  return name;
}

function readClaimHeader(fields: Fields): ClaimHeader {
  const header = readOutput(fields, 'header');
  if (header === '') fields.problem('header', 'is missing');
  const path = fields.string('claim').split('.');
  if (path.includes('')) fields.problem('claim', 'is not the name of a claim');
  fields.refuseUnknown();
  return { header, path };
}

function readTimeout(fields: Fields): number {
  const text = fields.string('timeout');
  if (text === '') return TIMEOUT_DEFAULT_MS;
  const parsed = parseDuration(text);
  const ms = parsed.ok ? parsed.value : 0;
  if (!parsed.ok) fields.problem('timeout', parsed.error.message);
  else if (ms < 1 || ms > TIMEOUT_MAX_MS) fields.problem('timeout', 'must be from 1ms to 30s');
  return ms;
}
