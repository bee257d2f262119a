/**
 * Who may: tokens first, then the L7 policies of the service that was addressed, with the client's identity. Comes
 * before routing, so that nothing about routes is learned by those who are refused. Connections whose bytes nobody
 * understands are decided by the same policies, read strictly.
 */

import { MeshError } from '../base/errors.ts';
import { parseAddress, type IpAddress } from '../core/address.ts';
import type { HttpDecision } from '../policy/decide-http.ts';
import { decisionError } from '../policy/decide.ts';
import type { HttpPolicyBook } from '../policy/http-policy-book.ts';
import type { RequestPrincipal } from '../policy/http-match.ts';
import type { AttemptTarget } from './attempt.ts';
import { createLocalAnswer, type LocalAnswer } from './local-answer.ts';
import type { HttpRequest } from './request.ts';
import type { Authenticated, RequestAuthenticator } from './request-authenticator.ts';
import { headerValue } from './route-candidate.ts';
import type { ServedConnection } from './served-connection.ts';

export interface Guard {
  readonly authenticator: RequestAuthenticator;
  readonly policies: HttpPolicyBook;
}

/** What was decided about one request. */
export interface Verdict {
  /** With the headers that its token leaves and brings. */
  readonly request: HttpRequest;
  /** Of its token; undefined without one. */
  readonly principal: RequestPrincipal | undefined;
  readonly audited: readonly string[];
  /** Keys of dry-run policies that would have refused it. */
  readonly wouldDeny: readonly string[];
  /** Undefined: it may pass. */
  readonly refusal: { readonly error: MeshError; readonly answer: LocalAnswer } | undefined;
}

const NO_KEYS: readonly string[] = [];
const CHALLENGE = ['www-authenticate', 'Bearer error="invalid_token"'] as const;

/** A promise only when a token's signature has to be checked; it never rejects. */
export function judgeRequest(
  guard: Guard,
  connection: ServedConnection,
  request: HttpRequest,
): Verdict | Promise<Verdict> {
  const { service } = connection.addressed;
  const { headers, target } = request;
  const authenticated = guard.authenticator.authenticate(service?.key, headers, target.query);
  return authenticated instanceof Promise
    ? authenticated.then((result) => judgeBearer(guard, connection, request, result))
    : judgeBearer(guard, connection, request, authenticated);
}

function judgeBearer(
  guard: Guard,
  connection: ServedConnection,
  request: HttpRequest,
  result: Authenticated | MeshError,
): Verdict {
  if (result instanceof MeshError) return refuseToken(request, result);
  const { headers, principal } = result;
  const own = headers === request.headers ? request : { ...request, headers };
  return decideRequest(guard, connection, own, principal);
}

/** A policy has changed: why a request that was let in may go on no longer, to the endpoint that has it. */
export function rejudgeRequest(
  guard: Guard,
  connection: ServedConnection,
  { request, principal }: Verdict,
  target: AttemptTarget | undefined,
): MeshError | undefined {
  const { refusal } = decideRequest(guard, connection, request, principal);
  if (refusal !== undefined) return refusal.error;
  return target && connection.denial(target.workload, target.address);
}

/** Why a connection that is carried as bytes is refused; undefined: it is not. */
export function judgeBytes(guard: Guard, connection: ServedConnection): MeshError | undefined {
  const { addressed } = connection;
  const { facts } = connection;
  const decision = guard.policies.decideBytes(addressed.service?.key, facts);
  return decision.allowed ? undefined : decisionError(decision);
}

function refuseToken(request: HttpRequest, error: MeshError): Verdict {
  const late = error.code === 'MESH_CONFIG_UNAVAILABLE';
  const answer = createLocalAnswer(
    late ? 503 : 401,
    late ? 'not ready' : error.message,
    request.isGrpc,
    late ? [] : [CHALLENGE],
  );
  const refusal = { error, answer };
  return { request, principal: undefined, audited: NO_KEYS, wouldDeny: NO_KEYS, refusal };
}

function decideRequest(
  guard: Guard,
  connection: ServedConnection,
  request: HttpRequest,
  principal: RequestPrincipal | undefined,
): Verdict {
  const { addressed, client, facts, subject } = connection;
  const decision = guard.policies.decide(
    addressed.service?.key,
    {
      source: facts.source,
      sourceIp: facts.sourceIp,
      destination: facts.destination,
      method: request.method,
      target: request.target,
      headers: request.headers,
      remoteIp: client.trustedHop ? remoteIp(request) : facts.sourceIp,
      principal,
    },
    subject,
  );
  const { dryRun } = decision;
  return {
    request,
    principal,
    audited: decision.audited,
    wouldDeny:
      dryRun.length === 0
        ? NO_KEYS
        : dryRun.filter((tried) => tried.wouldDeny).map(({ policy }) => policy),
    refusal: decision.allowed ? undefined : refusalOf(decision, request),
  };
}

function refusalOf(decision: HttpDecision, request: HttpRequest): NonNullable<Verdict['refusal']> {
  const error = decisionError(decision);
  const ready = decision.code !== 'MESH_CONFIG_UNAVAILABLE';
  const text = decision.explain ? decision.reason : ready ? 'access denied' : 'not ready';
  return { error, answer: createLocalAnswer(ready ? 403 : 503, text, request.isGrpc) };
}

/** The last hop that the trusted one names; what it cannot have meant counts as itself. */
function remoteIp(request: HttpRequest): IpAddress {
  const listed = headerValue(request.headers, 'x-forwarded-for')?.split(',').at(-1)?.trim();
  const parsed = parseAddress(listed ?? '');
  return parsed.ok ? parsed.value : request.clientIp;
}
