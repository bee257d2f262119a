{{/* Stable labels, for selectors; takes the component. */}}
{{- define "nodemesh.selector" -}}
app.kubernetes.io/name: nodemesh
app.kubernetes.io/instance: nodemesh
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* The labels of every object; takes a list of the component and the root context. */}}
{{- define "nodemesh.labels" -}}
{{ include "nodemesh.selector" (index . 0) }}
app.kubernetes.io/version: {{ (index . 1).Chart.AppVersion }}
app.kubernetes.io/part-of: nodemesh
app.kubernetes.io/managed-by: nodemesh
{{- end }}

{{- define "nodemesh.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end }}

{{/* Name of the controller for node proxies: its fixed address, or its DNS name. */}}
{{- define "nodemesh.controller" -}}
{{- $ip := .Values.controller.clusterIP -}}
{{- if not $ip -}}nodemesh-controller.nodemesh-system.svc{{- else if contains ":" $ip -}}[{{ $ip }}]{{- else -}}{{ $ip }}{{- end -}}
{{- end }}

{{/* Where a pod may run; takes a list of the component's values and the root context. */}}
{{- define "nodemesh.scheduling" -}}
{{- $pod := index . 0 -}}
{{- with (index . 1).Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
priorityClassName: {{ $pod.priorityClassName }}
{{- with $pod.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "nodemesh.annotations" -}}
prometheus.io/scrape: 'true'
prometheus.io/port: '15020'
prometheus.io/path: /metrics
{{- with .podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "nodemesh.ports" -}}
- { name: metrics, containerPort: 15020, protocol: TCP }
- { name: readiness, containerPort: 15021, protocol: TCP }
{{- end }}

{{- define "nodemesh.probes" -}}
readinessProbe:
  httpGet: { path: /healthz/ready, port: readiness }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet: { path: /healthz/live, port: readiness }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
