/**
 * The access log: exactly one line for each connection, when it has ended, with the field names of Istio's node
 * proxy so that what reads those logs reads these. Unknown fields are left out.
 *
 * Ended well: info. Ended by an error after it was opened: error. Refused before: warn. A connection that an AUDIT
 * policy matched has an audit line besides.
 */

import type { Logger } from '../base/logger.ts';
import { formatSocketAddress } from '../core/address.ts';
import type { ConnectionRecord, Edge, EdgePeer } from '../core/connection-record.ts';

export interface AccessLog {
  record(record: ConnectionRecord): void;
}

type Fields = Record<string, unknown>;

function addPeer(fields: Fields, prefix: 'src' | 'dst', peer: EdgePeer, isSecured: boolean): void {
  addText(fields, `${prefix}.workload`, peer.workload);
  addText(fields, `${prefix}.namespace`, peer.namespace);
  if (isSecured) addText(fields, `${prefix}.identity`, peer.principal);
  addText(fields, `${prefix}.cluster`, peer.cluster);
}

function addText(fields: Fields, name: string, text: string): void {
  if (text !== '') fields[name] = text;
}

function edgeFields(edge: Edge): Fields {
  const isSecured = edge.securityPolicy === 'mutual_tls';
  const fields: Fields = {};
  addPeer(fields, 'src', edge.source, isSecured);
  addText(fields, 'dst.service', edge.destinationService);
  addPeer(fields, 'dst', edge.destination, isSecured);
  return fields;
}

function fieldsOf(record: ConnectionRecord): Fields {
  const fields: Fields = { 'src.addr': formatSocketAddress(record.sourceAddress) };
  fields['dst.addr'] = formatSocketAddress(record.destinationAddress);
  addText(fields, 'dst.hbone_addr', record.hboneAuthority);
  fields['direction'] = record.direction;
  fields['transport'] = record.transport;
  return fields;
}

/** Lines go to `logger` with the field `scope`: `access` or `audit`. */
export function createAccessLog(logger: Logger): AccessLog {
  const audit = logger.child({ scope: 'audit' });
  /** Loggers that have the fields of an edge already: made once, not for every connection. */
  const known = new WeakMap<Edge, Logger>();
  const accessOf = (edge: Edge): Logger => {
    let access = known.get(edge);
    if (access === undefined) {
      access = logger.child({ scope: 'access', ...edgeFields(edge) });
      known.set(edge, access);
    }
    return access;
  };
  return {
    record(record) {
      const access = accessOf(record.edge);
      const fields = fieldsOf(record);
      if (record.audited.length > 0) {
        const all = { ...edgeFields(record.edge), ...fields, policies: record.audited };
        audit.info('connection audited', all);
      }
      fields['bytes_sent'] = record.bytesSent;
      fields['bytes_recv'] = record.bytesReceived;
      fields['duration'] = `${Math.round(record.durationMs)}ms`;
      fields['flag'] = record.flag;
      addText(fields, 'policy', record.policy);
      addText(fields, 'code', record.errorCode ?? '');
      addText(fields, 'error', record.error);
      addText(fields, 'trace_id', record.traceId);
      if (!record.opened) access.warn('connection failed', fields);
      else if (record.flag === '-') access.info('connection complete', fields);
      else access.error('connection complete', fields);
    },
  };
}
