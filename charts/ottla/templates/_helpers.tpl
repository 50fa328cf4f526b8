{{- define "ottla.name" -}}
{{- if contains "ottla" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-ottla" (.Release.Name | trunc 44 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "ottla.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "ottla.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "ottla.name" .) }}
{{- end -}}

{{- define "ottla.selector" -}}
app.kubernetes.io/name: ottla
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ottla.labels" -}}
{{ include "ottla.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What the operator may do where its clusters are: exactly what its code asks for. */}}
{{- define "ottla.rules" -}}
- apiGroups: [ottla.dev]
  resources: [kafkaclusters, kafkatopics]
  verbs: [get, list, watch]
- apiGroups: [ottla.dev]
  resources: [kafkaclusters/status, kafkatopics/status]
  verbs: [patch]
# Finalizers are part of a topic's metadata.
- apiGroups: [ottla.dev]
  resources: [kafkatopics]
  verbs: [patch]
# To own what it creates, where the API server insists on this right (OpenShift does).
- apiGroups: [ottla.dev]
  resources: [kafkaclusters/finalizers]
  verbs: [update]
# What a cluster is made of. Nothing of it is deleted by the operator: its owner's end is its own.
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
