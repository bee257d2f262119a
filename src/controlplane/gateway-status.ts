/**
 * What is to be said of Gateway API objects, as conditions with the API's own types and reasons: classes, meshes,
 * Gateways, routes per parent, policies per target; and of services, whether a waypoint serves them. Pure; whoever can
 * write (a cluster) puts it into their status.
 */

import {
  CONTROLLER_NAME,
  type GatewayClass,
  type MeshDeclaration,
  type ParentRef,
  type RouteObject,
} from './gateway-objects.ts';
import type { Gateway } from './gateway-objects.ts';
import { WAYPOINT_BOUND, type ObjectCondition, type StatedCondition } from './objects.ts';
import type { RouteOutcome } from './route-compiler.ts';

export interface StatusCondition {
  readonly type: string;
  readonly status: 'True' | 'False';
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
}

/** One of our Gateways, and how it is. */
export interface GatewayState {
  readonly gateway: Gateway;
  /** A process of it is ready. */
  readonly ready: boolean;
  /** Of its service; empty while there is none. */
  readonly addresses: readonly {
    readonly type: 'IPAddress' | 'Hostname';
    readonly value: string;
  }[];
  readonly attachedRoutes: number;
  readonly boundServices: number;
}

/** One route, and what it is to each parent of ours. */
export interface RouteState {
  readonly route: RouteObject;
  readonly parents: readonly {
    readonly ref: ParentRef;
    readonly conditions: readonly StatusCondition[];
  }[];
}

/** A service whose status says something else of its waypoint than it should. */
export interface ServiceState {
  readonly namespace: string;
  readonly name: string;
  /** Undefined: nothing is to be said. */
  readonly bound: StatusCondition | undefined;
}

/** One `XBackendTrafficPolicy`, and what it is to each service that it targets. */
export interface BackendPolicyState {
  readonly namespace: string;
  readonly name: string;
  readonly ancestors: readonly {
    readonly service: string;
    readonly conditions: readonly StatusCondition[];
  }[];
}

export interface GatewayApiView {
  /** Ours. */
  readonly classes: readonly GatewayClass[];
  readonly meshes: readonly MeshDeclaration[];
  readonly services: readonly ServiceState[];
  readonly backendPolicies: readonly BackendPolicyState[];
  readonly gateways: readonly GatewayState[];
  readonly routes: readonly RouteState[];
}

export function classConditions({ generation }: GatewayClass): StatusCondition[] {
  const message = `Served by ${CONTROLLER_NAME}`;
  return [condition('Accepted', true, 'Accepted', message, generation)];
}

/** Of the mesh profiles of the conformance suite, all of which pass: core, extended, and what some of those need. */
export const MESH_FEATURES: readonly string[] = [
  'GRPCRoute',
  'HTTPRoute',
  'HTTPRoute303RedirectStatusCode',
  'HTTPRoute307RedirectStatusCode',
  'HTTPRoute308RedirectStatusCode',
  'HTTPRouteParentRefPort',
  'HTTPRouteResponseHeaderModification',
  'Mesh',
  'MeshClusterIPMatching',
  'MeshConsumerRoute',
  'MeshHTTPRouteBackendRequestHeaderModification',
  'MeshHTTPRouteNamedRouteRule',
  'MeshHTTPRouteQueryParamMatching',
  'MeshHTTPRouteRedirectPath',
  'MeshHTTPRouteRedirectPort',
  'MeshHTTPRouteRewritePath',
  'MeshHTTPRouteSchemeRedirect',
];

export function meshConditions({ generation, hasParameters }: MeshDeclaration): StatusCondition[] {
  if (!hasParameters) {
    const message = `Served by ${CONTROLLER_NAME}`;
    return [condition('Accepted', true, 'Accepted', message, generation)];
  }
  const message = 'parametersRef is not supported: the mesh is configured by MeshConfig';
  return [condition('Accepted', false, 'InvalidParameters', message, generation)];
}

const TUNNEL_PROTOCOL = 'HBONE';

/** Our waypoints have listeners of the tunnel alone. */
export function gatewayConditions(state: GatewayState, conflict: string): StatusCondition[] {
  const { gateway, ready, addresses } = state;
  const { generation } = gateway;
  const wrong = gateway.listeners.find(({ protocol }) => protocol !== TUNNEL_PROTOCOL);
  if (wrong !== undefined) {
    const message = `Listener "${wrong.name}" is "${wrong.protocol}": a waypoint has ${TUNNEL_PROTOCOL} only`;
    return [
      condition('Accepted', false, 'ListenersNotValid', message, generation),
      condition('Programmed', false, 'Invalid', message, generation),
    ];
  }
  const accepted = condition('Accepted', true, 'Accepted', 'Accepted as a waypoint', generation);
  if (conflict !== '') {
    return [accepted, condition('Programmed', false, 'Invalid', conflict, generation)];
  }
  if (addresses.length === 0) {
    const message = 'Its service does not have an address yet';
    return [accepted, condition('Programmed', false, 'AddressNotAssigned', message, generation)];
  }
  if (!ready) {
    return [accepted, condition('Programmed', false, 'Pending', 'No process is ready', generation)];
  }
  return [accepted, condition('Programmed', true, 'Programmed', 'Serving', generation)];
}

export function listenerConditions({ gateway }: GatewayState, name: string): StatusCondition[] {
  const { generation, listeners } = gateway;
  const protocol = listeners.find((listener) => listener.name === name)?.protocol ?? '';
  const fine = protocol === TUNNEL_PROTOCOL;
  const reason = fine ? 'Accepted' : 'UnsupportedProtocol';
  const message = fine ? '' : `"${protocol}" is not ${TUNNEL_PROTOCOL}`;
  return [
    condition('Accepted', fine, reason, message, generation),
    condition('Conflicted', false, 'NoConflicts', '', generation),
    condition('ResolvedRefs', true, 'ResolvedRefs', '', generation),
    condition('Programmed', fine, fine ? 'Programmed' : 'Invalid', message, generation),
  ];
}

/**
 * `outcome` undefined: the parent does not exist; `governs`: the reference means a port that it has; `unserved`: why no
 * waypoint serves the parent, so that the route, accepted or not, changes nothing there.
 */
export function routeConditions(
  route: RouteObject,
  parent: ParentRef,
  outcome: RouteOutcome | undefined,
  governs: boolean,
  unserved: StatedCondition | undefined,
): StatusCondition[] {
  const own = parentConditions(route, parent, outcome, governs);
  if (unserved === undefined || outcome === undefined) return own;
  return [...own, waypointBound(unserved, route.generation)];
}

/** For the status of a service or of a route's parent. */
export function waypointBound(stated: StatedCondition, generation: number): StatusCondition {
  const { status, reason, message } = stated;
  return condition(WAYPOINT_BOUND, status === 'True', reason, message, generation);
}

/** Of one target; `said`: what the owner of the policy should read about all of it. */
export function backendPolicyConditions(
  generation: number,
  said: ObjectCondition | undefined,
  unserved: StatedCondition | undefined,
): StatusCondition[] {
  const reason = said?.reason ?? 'Accepted';
  const message = said?.message ?? '';
  const accepted = condition('Accepted', said === undefined, reason, message, generation);
  return unserved === undefined ? [accepted] : [accepted, waypointBound(unserved, generation)];
}

function parentConditions(
  route: RouteObject,
  parent: ParentRef,
  outcome: RouteOutcome | undefined,
  governs: boolean,
): StatusCondition[] {
  const { generation } = route;
  const make = (type: string, fine: boolean, reason: string, message = ''): StatusCondition =>
    condition(type, fine, reason, message, generation);
  if (outcome === undefined || !governs) {
    const what = `Service "${parent.namespace}/${parent.name}"`;
    const message = outcome === undefined ? `${what} does not exist` : `${what} has no such port`;
    return [make('Accepted', false, 'NoMatchingParent', message), refs(outcome, make)];
  }
  const { valueProblem } = outcome;
  if (valueProblem === undefined) return [make('Accepted', true, 'Accepted'), refs(outcome, make)];
  const { reason, message } = valueProblem;
  if (valueProblem.whole) return [make('Accepted', false, reason, message), refs(outcome, make)];
  return [
    make('Accepted', true, 'Accepted'),
    refs(outcome, make),
    make('PartiallyInvalid', true, reason, `Rules that cannot be followed answer 500: ${message}`),
  ];
}

function refs(
  outcome: RouteOutcome | undefined,
  make: (type: string, fine: boolean, reason: string, message?: string) => StatusCondition,
): StatusCondition {
  const problem = outcome?.refProblem;
  if (problem === undefined) return make('ResolvedRefs', true, 'ResolvedRefs');
  return make('ResolvedRefs', false, problem.reason, problem.message);
}

function condition(
  type: string,
  fine: boolean,
  reason: string,
  message: string,
  observedGeneration: number,
): StatusCondition {
  return { type, status: fine ? 'True' : 'False', reason, message, observedGeneration };
}
