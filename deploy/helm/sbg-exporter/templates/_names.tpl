{{- define "sbg-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /*
The name of a Service must begin with a letter and may contain no dot; a release's name need not and may. At most 52
characters, because a StatefulSet adds a hash to its name in a label of the pod.
*/}}
{{- define "sbg-exporter.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- $full = default $full .Values.fullnameOverride }}
{{- $full = regexReplaceAll "[^-a-z0-9]+" (lower $full) "-" }}
{{- if not (regexMatch "^[a-z]" $full) }}
{{- $full = printf "sbg-exporter-%s" $full }}
{{- end }}
{{- $full | trunc 52 | trimAll "-" }}
{{- end }}

{{- define "sbg-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- /* Neither these labels nor what has them may ever change: Kubernetes does not let an upgrade change selectors. */}}
{{- define "sbg-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sbg-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Labels of the pod of `helm test`, which no selector of the exporter may match. */}}
{{- define "sbg-exporter.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "sbg-exporter.name" . | trunc 58) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "sbg-exporter.labels" -}}
{{ include "sbg-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: exporter
app.kubernetes.io/part-of: sbg-exporter
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- if .Values.releaseLabel }}
release: {{ .Release.Name | quote }}
{{- end }}
{{- end }}

{{- /*
Metadata of an object: (dict "root" $ "suffix" "-dashboard" "namespace" "…" "labels" {…} "annotations" {…}), all but root
optional. Labels and annotations of the object replace those of all objects, which replace the chart's.
*/}}
{{- define "sbg-exporter.metadata" -}}
{{- $values := .root.Values }}
{{- $chart := include "sbg-exporter.labels" .root | fromYaml -}}
name: {{ printf "%s%s" (include "sbg-exporter.fullname" .root) (.suffix | default "") | quote }}
namespace: {{ .namespace | default (include "sbg-exporter.namespace" .root) | quote }}
labels:
  {{- merge (dict) (.labels | default dict) ($values.commonLabels | default dict) $chart | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) ($values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sbg-exporter.serviceAccountName" -}}
{{- default (ternary (include "sbg-exporter.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}
