/** Where a request goes: its rule, then the rule's filters and backend. Pure; the exchange acts on the answer. */

import { MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import type { WeightedBackend } from '../core/route.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import type { NodeState } from '../state/contract.ts';
import {
  applyBackendFilters,
  applyRequestFilters,
  applyResponseFilters,
  chooseBackend,
  type RouteChoice,
  type UpstreamRequest,
} from './compiled-routes.ts';
import { createLocalAnswer, type LocalAnswer } from './local-answer.ts';
import type { HttpRequest } from './request.ts';
import { appProtocolOf, type Addressed, type ServicePlans } from './service-plan.ts';

export interface Forward {
  readonly kind: 'forward';
  readonly backend: WeightedBackend | undefined;
  /** Undefined: the pod that was addressed. */
  readonly service: ServiceKey | undefined;
  readonly port: number;
  readonly request: UpstreamRequest;
}

export type Routing =
  | Forward
  | {
      readonly kind: 'answer';
      readonly answer: LocalAnswer;
      readonly error: MeshError | undefined;
    };

/** `choice` undefined: no route is configured, the request goes to what was addressed. */
export function routeRequest(
  choice: RouteChoice | undefined,
  request: HttpRequest,
  addressed: Addressed,
  random: Random,
): Routing {
  const { service, port } = addressed;
  const { target, headers } = request;
  if (choice === undefined) {
    const plain = { authority: target.authority, path: target.path + target.query, headers };
    return { kind: 'forward', backend: undefined, service: service?.key, port, request: plain };
  }
  const outcome = applyRequestFilters(choice, request, port);
  if (outcome.kind === 'answer') return { ...outcome, error: undefined };
  const backend = chooseBackend(choice.rule, random);
  if (backend === undefined || backend.backend.invalid !== '') {
    const reason = backend?.backend.invalid ?? 'none has a weight';
    const message = `The route has no usable backend: ${reason}`;
    return {
      kind: 'answer',
      // A GRPCRoute answers UNAVAILABLE (Gateway API, `GRPCRouteRule.backendRefs`).
      answer: createLocalAnswer(500, 'the route has no usable backend', request.isGrpc, [], 14),
      error: new MeshError('MESH_DESTINATION_UNKNOWN', message, { flag: 'NO_ENDPOINT' }),
    };
  }
  return {
    kind: 'forward',
    backend,
    service: backend.backend.service,
    port: backend.backend.port,
    request: applyBackendFilters(backend, outcome.request),
  };
}

/** The head of an answer after the filters of its route; `headers` begin with the status. */
export function answerHeaders(
  choice: RouteChoice | undefined,
  backend: WeightedBackend | undefined,
  request: HttpRequest | undefined,
  headers: HeaderList,
): HeaderList {
  const filters = (choice?.rule.filters.length ?? 0) + (backend?.filters.length ?? 0);
  if (filters === 0 || choice === undefined || request === undefined) return headers;
  const [status, ...regular] = headers;
  if (status === undefined) return headers;
  return [status, ...applyResponseFilters(choice, backend, request, regular)];
}

/** What the backend speaks; the client's own version where nobody says. */
export function upstreamHttp(
  parts: { readonly state: NodeState; readonly plans: ServicePlans },
  to: { readonly service: ServiceKey | undefined; readonly port: number },
  request: HttpRequest,
  clientVersion: 1 | 2,
): 'h1' | 'h2' {
  const { service: key, port } = to;
  const service = key === undefined ? undefined : parts.state.services.get(key);
  const configured = key === undefined ? undefined : parts.plans.port(key, port);
  const protocol = appProtocolOf(service, configured, port);
  if (protocol === 'HTTP2' || protocol === 'GRPC' || request.isGrpc) return 'h2';
  if (protocol === 'HTTP11') return 'h1';
  return clientVersion === 2 ? 'h2' : 'h1';
}
