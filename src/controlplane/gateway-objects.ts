/**
 * Gateway API objects as the controller takes them: read and defaulted, their references still names. What
 * they lead to is found by `route-compiler.ts`. Matches and filters have the form of `core/route.ts` already.
 */

import type {
  HttpFilter,
  HttpMatch,
  RouteRef,
  RouteRetry,
  SessionPersistence,
} from '../core/route.ts';
import type { Labels, LabelSelector, ObjectMeta } from './objects.ts';

export interface GatewayClass {
  readonly kind: 'GatewayClass';
  readonly meta: ObjectMeta;
  /** Of the specification that was read; 0 in a folder. */
  readonly generation: number;
  readonly controllerName: string;
}

/** `XMesh` of the experimental channel: a mesh as one object. */
export interface MeshDeclaration {
  readonly kind: 'XMesh';
  readonly meta: ObjectMeta;
  readonly generation: number;
  readonly controllerName: string;
  /** `parametersRef`: we have no parameters that way. */
  readonly hasParameters: boolean;
}

/** Who may use a listener from another namespace: nobody, everybody, or namespaces with these labels. */
export type AllowedNamespaces = 'Same' | 'All' | LabelSelector;

export interface GatewayListener {
  readonly name: string;
  readonly port: number;
  readonly protocol: string;
  readonly allowed: AllowedNamespaces;
}

export interface Gateway {
  readonly kind: 'Gateway';
  readonly meta: ObjectMeta;
  readonly generation: number;
  /** What is made for it is owned by this very object; empty in a folder. */
  readonly uid: string;
  readonly className: string;
  readonly listeners: readonly GatewayListener[];
  /** `spec.infrastructure`: for everything that is made for the Gateway. */
  readonly infrastructureLabels: Labels;
  readonly infrastructureAnnotations: Labels;
}

/** A reference to what a route is attached to; only Services concern a mesh. */
export interface ParentRef {
  /** Empty: core. */
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly sectionName: string;
  /** Undefined: every port. */
  readonly port: number | undefined;
}

export interface BackendRef {
  /** Empty: core. */
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly port: number | undefined;
}

/** As in `core/route.ts`, but a mirror's backend is not found yet, and it may be one nobody knows. */
export type RouteFilter =
  | Exclude<HttpFilter, { readonly kind: 'mirror' }>
  | {
      readonly kind: 'mirror';
      readonly backendRef: BackendRef;
      readonly numerator: number;
      readonly denominator: number;
    }
  | { readonly kind: 'unknown'; readonly type: string };

export interface WeightedRef {
  readonly ref: BackendRef;
  readonly weight: number;
  readonly filters: readonly RouteFilter[];
}

export interface RouteObjectRule {
  readonly name: string;
  /** Empty for TLS and TCP. */
  readonly matches: readonly HttpMatch[];
  readonly filters: readonly RouteFilter[];
  readonly backends: readonly WeightedRef[];
  readonly requestTimeoutMs: number | undefined;
  readonly backendRequestTimeoutMs: number | undefined;
  readonly retry: RouteRetry | undefined;
  readonly sessionPersistence: SessionPersistence | undefined;
}

export interface RouteObject {
  readonly kind: RouteRef['kind'];
  readonly meta: ObjectMeta;
  readonly generation: number;
  readonly parents: readonly ParentRef[];
  readonly hostnames: readonly string[];
  readonly rules: readonly RouteObjectRule[];
  /** Its status has entries of ours; false in a folder. */
  readonly stated: boolean;
}

/** Whoever `from` names may refer to what `to` names, in the grant's own namespace. */
export interface ReferenceGrant {
  readonly kind: 'ReferenceGrant';
  readonly meta: ObjectMeta;
  readonly from: readonly {
    readonly group: string;
    readonly kind: string;
    readonly namespace: string;
  }[];
  /** An empty name is all of them. */
  readonly to: readonly { readonly group: string; readonly kind: string; readonly name: string }[];
}

export const GATEWAY_GROUP = 'gateway.networking.k8s.io';
/** The class of our waypoints, with or without an object that describes it. */
export const WAYPOINT_CLASS = 'nodemesh-waypoint';
/** What we are called in classes, meshes and in the status of routes. */
export const CONTROLLER_NAME = 'nodemesh.dev/waypoint';

/** Gateway API writes the core group as "", people also as "core". */
export function normalGroup(group: string): string {
  return group === 'core' ? '' : group;
}
