/** Keys, key sets and tokens for tests: made anew for each run. */

import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK } from 'jose';

import type { JwtRule, RequestAuthentication } from '../../src/core/http-policy.ts';

export interface Signer {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: CryptoKey;
  readonly jwk: JWK;
}

export async function createSigner(kid: string, alg: string = 'ES256'): Promise<Signer> {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  return { kid, alg, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, alg } };
}

export function keySet(...signers: readonly Signer[]): string {
  return JSON.stringify({ keys: signers.map(({ jwk }) => jwk) });
}

export const ISSUER = 'https://issuer.test';

/** `nowS`: what the test's clock says. */
export function sign(
  signer: Signer,
  nowS: number,
  claims: Readonly<Record<string, unknown>> = {},
  header: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  return new SignJWT({ iss: ISSUER, sub: 'alice', aud: 'shop', exp: nowS + 600, ...claims })
    .setProtectedHeader({ alg: signer.alg, kid: signer.kid, ...header })
    .sign(signer.privateKey);
}

export function buildJwtRule(change: Partial<JwtRule> = {}): JwtRule {
  return {
    issuer: ISSUER,
    audiences: [],
    jwks: '',
    jwksUri: 'https://issuer.test/keys',
    fromHeaders: [],
    fromParams: [],
    fromCookies: [],
    outputPayloadHeader: '',
    outputClaims: [],
    forwardToken: true,
    timeoutMs: 2_000,
    ...change,
  };
}

export function buildAuthentication(...rules: readonly Partial<JwtRule>[]): RequestAuthentication {
  return {
    key: 'shop/jwt',
    name: 'jwt',
    namespace: 'shop',
    services: [],
    rules: rules.map(buildJwtRule),
    unknown: '',
  };
}
