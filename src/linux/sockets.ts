/**
 * Sockets made inside a pod's network namespace and then used from outside it through Node. Every function
 * returns a plain descriptor (CLOEXEC, non-blocking) that the caller owns until it hands it to Node:
 * `server.listen({ fd, backlog })`, or `new net.Socket({ fd }).connect({ host, port })` with a literal address.
 */

import { closeSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import {
  AF_INET,
  AF_INET6,
  IP6T_SO_ORIGINAL_DST,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_TRANSPARENT,
  IPV6_V6ONLY,
  IP_BIND_ADDRESS_NO_PORT,
  IP_TRANSPARENT,
  OWN_SOCKET_MARK,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  SO_MARK,
  SO_ORIGINAL_DST,
  SO_REUSEADDR,
  SO_REUSEPORT,
} from './constants.ts';
import { runInNamespace, type NetworkNamespace } from './namespaces.ts';
import { checked, errnoOf, nativeInt, syscallError, type Native } from './native.ts';
import {
  decodeSocketAddress,
  encodeSocketAddress,
  sockaddrSize,
  type Endpoint,
  type IpFamily,
} from './sockaddr.ts';

export interface ListenerOptions {
  /** Port to listen on, on every address of the namespace. */
  readonly port: number;
  /** Connections the kernel keeps waiting. Default 4096 (the kernel caps it at `net.core.somaxconn`). */
  readonly backlog?: number;
  /** Sets our packet mark 0x539. Default true; accepted sockets inherit it. */
  readonly marked?: boolean;
  /** `IP_TRANSPARENT`, needed to accept what was not addressed to us. Default true. */
  readonly transparent?: boolean;
}

export const LISTENER_BACKLOG_DEFAULT = 4096;

/**
 * A listening socket on `[::]` for both families, or on `0.0.0.0` where the kernel has no IPv6. Member of
 * the port's SO_REUSEPORT group: further listeners of the same effective user may join. It accepts from now on.
 */
export function createListener(
  native: Native,
  namespace: NetworkNamespace,
  options: ListenerOptions,
): number {
  return runInNamespace(native, namespace, () => {
    try {
      return listenOn(native, 'ipv6', options);
    } catch (error) {
      // No IPv6 in the kernel (`ipv6.disable=1`): no family, or no address to bind to.
      const errno = errnoOf(error);
      if (errno !== 'EAFNOSUPPORT' && errno !== 'EADDRNOTAVAIL') throw error;
      return listenOn(native, 'ipv4', options);
    }
  });
}

function listenOn(native: Native, family: IpFamily, options: ListenerOptions): number {
  const what = `port ${options.port}`;
  return withSocket(native, family, (fd) => {
    setFlag(native, fd, SOL_SOCKET, SO_REUSEADDR);
    setFlag(native, fd, SOL_SOCKET, SO_REUSEPORT);
    if (options.marked ?? true) setFlag(native, fd, SOL_SOCKET, SO_MARK, OWN_SOCKET_MARK);
    if (options.transparent ?? true) setTransparent(native, fd, family);
    if (family === 'ipv6') setFlag(native, fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    const address = family === 'ipv6' ? '::' : '0.0.0.0';
    const bytes = encodeSocketAddress({ address, port: options.port });
    checked(native, native.calls.bind(fd, bytes, bytes.length), 'bind', what);
    const backlog = options.backlog ?? LISTENER_BACKLOG_DEFAULT;
    checked(native, native.calls.listen(fd, backlog), 'listen', what);
  });
}

export interface ConnectorOptions {
  /** Family of the address that will be connected to. */
  readonly family: IpFamily;
  /**
   * Source to bind to, same family; port 0 lets the kernel choose. An address that is not the namespace's
   * own needs `transparent`. Default: the kernel chooses.
   */
  readonly source?: Endpoint;
  /** Default false. */
  readonly transparent?: boolean;
  /** Sets our packet mark 0x539, which the redirection lets through. Default true. */
  readonly marked?: boolean;
}

/** A socket ready for `new net.Socket({ fd }).connect({ host, port })`. */
export function createConnector(
  native: Native,
  namespace: NetworkNamespace,
  options: ConnectorOptions,
): number {
  const { family, source } = options;
  return runInNamespace(native, namespace, () =>
    withSocket(native, family, (fd) => {
      if (options.marked ?? true) setFlag(native, fd, SOL_SOCKET, SO_MARK, OWN_SOCKET_MARK);
      if (options.transparent === true) setTransparent(native, fd, family);
      if (source === undefined) return;
      const bytes = encodeSocketAddress(source);
      if (bytes.length !== sockaddrSize(family)) {
        throw new MeshError('MESH_ADDRESS_INVALID', `"${source.address}" is not ${family}`);
      }
      // Port 0 chosen at connect, unique per destination, not at bind, unique per source address: else one
      // client's address runs out of ports after 28,000 connections. An IPPROTO_IP option for IPv6 too.
      if (source.port === 0) setFlag(native, fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
      // For the same reason: another connection may have the port already, to another destination.
      else setFlag(native, fd, SOL_SOCKET, SO_REUSEADDR);
      const bound = native.calls.bind(fd, bytes, bytes.length);
      checked(native, bound, 'bind', `"${source.address}" port ${source.port}`);
    }),
  );
}

/** Makes a TCP socket, prepares it, and closes it when that fails. */
function withSocket(native: Native, family: IpFamily, prepare: (fd: number) => void): number {
  const domain = family === 'ipv6' ? AF_INET6 : AF_INET;
  const created = native.calls.socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const fd = checked(native, created, 'socket', family);
  try {
    prepare(fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function setFlag(native: Native, fd: number, level: number, name: number, value = 1): void {
  const bytes = native.int(value);
  const result = native.calls.setsockopt(fd, level, name, bytes, bytes.length);
  checked(native, result, 'setsockopt', `level ${level} option ${name}`);
}

/** On a dual-stack socket IPv6's flag serves IPv4 too: both set the same bit of the socket. */
function setTransparent(native: Native, fd: number, family: IpFamily): void {
  if (family === 'ipv6') setFlag(native, fd, IPPROTO_IPV6, IPV6_TRANSPARENT);
  else setFlag(native, fd, IPPROTO_IP, IP_TRANSPARENT);
}

/**
 * Where a captured connection was going before redirection. `family` is that of the client, and a client
 * shown as `::ffff:a.b.c.d` on a dual-stack listener is `ipv4`. `undefined` when connection tracking does not
 * know the connection. A connection made straight to the listener answers with the listener's own address.
 */
export function originalDestination(
  native: Native,
  fd: number,
  family: IpFamily,
): Endpoint | undefined {
  const address = Buffer.alloc(sockaddrSize(family));
  const size = nativeInt(address.length);
  const [level, option] =
    family === 'ipv4' ? [IPPROTO_IP, SO_ORIGINAL_DST] : [IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST];
  if (native.calls.getsockopt(fd, level, option, address, size) < 0) {
    const error = syscallError(native, 'getsockopt', 'the original destination');
    // ENOENT: no conntrack entry. ENOPROTOOPT: no conntrack of this family in the kernel yet.
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOPROTOOPT') return undefined;
    throw error;
  }
  return decodeSocketAddress(address, family);
}
