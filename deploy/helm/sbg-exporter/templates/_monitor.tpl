{{- /* Endpoint of a ServiceMonitor or PodMonitor: (list . monitor). The alert rules expect this job and this instance. */}}
{{- define "sbg-exporter.endpoint" -}}
{{- $monitor := index . 1 -}}
port: metrics
path: /metrics
{{- with $monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- if $monitor.honorLabels }}
honorLabels: true
{{- end }}
{{- with $monitor.scheme | default (ternary "https" "" (include "sbg-exporter.tls" (index . 0) | eq "true")) }}
scheme: {{ . }}
{{- end }}
{{- with $monitor.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $monitor.basicAuth }}
basicAuth:
  {{- toYaml . | nindent 2 }}
{{- end }}
relabelings:
  - action: replace
    replacement: sbg-exporter
    targetLabel: job
  - action: replace
    sourceLabels:
      - __meta_kubernetes_pod_name
    targetLabel: instance
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
