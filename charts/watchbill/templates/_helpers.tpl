{{- define "watchbill.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Of what belongs to no namespace: two releases of a name can be in one cluster. */ -}}
{{- define "watchbill.clusterName" -}}
{{- printf "%s-%s" (include "watchbill.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "watchbill.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: watchbill
app.kubernetes.io/name: watchbill
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "watchbill.operatorSelector" -}}
app.kubernetes.io/name: watchbill
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "watchbill.valkeySelector" -}}
app.kubernetes.io/name: watchbill
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: valkey
{{- end -}}

{{- /* What every worker's pod carries, whatever its crew. */ -}}
{{- define "watchbill.workerSelector" -}}
matchExpressions:
  - {key: watchbill.dev/crew, operator: Exists}
{{- end -}}

{{- define "watchbill.valkeyName" -}}
{{- include "watchbill.fullname" . }}-valkey
{{- end -}}

{{- /* A Secret that the chart makes has the name that crews look for, so that those beside the operator need no copy. */ -}}
{{- define "watchbill.redisSecret" -}}
{{- if or .Values.valkey.enabled .Values.redis.url -}}
watchbill-redis
{{- else -}}
{{- .Values.redis.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "watchbill.redisKey" -}}
{{- if or .Values.valkey.enabled .Values.redis.url -}}
url
{{- else -}}
{{- .Values.redis.key -}}
{{- end -}}
{{- end -}}

{{- /* Which state of the chart's own Secret pods have read: the number of the release in which it last changed. It tells
nothing of what is in it, and renders the same twice, as a random word would not. Rendered without the cluster: always 1. */ -}}
{{- define "watchbill.secretRevision" -}}
{{- $now := lookup "v1" "Secret" .Release.Namespace (include "watchbill.redisSecret" .) -}}
{{- $key := ternary "url" "password" (ne .Values.redis.url "") -}}
{{- $wanted := .Values.redis.url | default .Values.valkey.password -}}
{{- $is := dig "data" $key "" $now | b64dec -}}
{{- $revision := dig "metadata" "annotations" "watchbill.dev/revision" "" $now -}}
{{- if and $revision (eq $is ($wanted | default $is)) -}}
{{- $revision -}}
{{- else -}}
{{- .Release.Revision -}}
{{- end -}}
{{- end -}}

{{- /* An image by its digest where there is one. Takes [image, default tag]. */ -}}
{{- define "watchbill.image" -}}
{{- $image := first . -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (last .)) -}}
{{- end -}}
{{- end -}}

{{- /* Where metrics may be scraped from: the pod's own namespace, and those of Prometheus. */ -}}
{{- define "watchbill.monitoring" -}}
- podSelector: {}
{{- with .Values.networkPolicy.monitoringNamespaces }}
- namespaceSelector:
    matchExpressions:
      - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end -}}

{{- /* PSS restricted, of a container. */ -}}
{{- define "watchbill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The settings by which the operator works, and by which `helm test` examines it. */ -}}
{{- define "watchbill.environment" -}}
- name: WATCHBILL_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "watchbill.redisSecret" . }}
      key: {{ include "watchbill.redisKey" . }}
- name: WATCHBILL_NAMESPACE  # of the crews that `kubectl exec ... watchbill submit NAME` names
  value: {{ first .Values.watchNamespaces | default .Release.Namespace }}
- name: WATCHBILL_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: WATCHBILL_WORKER_IMAGE
  value: {{ include "watchbill.image" (list .Values.workers.image .Chart.AppVersion) | quote }}
- name: WATCHBILL_WORKER_RESOURCES
  value: {{ .Values.workers.resources | default dict | toJson | quote }}
- name: WATCHBILL_QUOTAS
  value: {{ .Values.quotas | default dict | toJson | quote }}
- name: WATCHBILL_ALLOW_MODULES
  value: {{ join "," .Values.workers.allowModules | quote }}
{{- if .Values.redis.aclPerCrew }}
- name: WATCHBILL_REDIS_ACL_PER_CREW
  value: "true"
- name: WATCHBILL_REDIS_ACL_ROTATE_SECONDS
  value: {{ int64 .Values.redis.aclRotateSeconds | quote }}
{{- end }}
- name: WATCHBILL_INSTALLATION
  value: {{ printf "%s/%s" .Release.Namespace .Release.Name }}
- name: WATCHBILL_LEASE
  value: {{ printf "%s/%s" .Release.Namespace (include "watchbill.fullname" .) }}
{{- end -}}

{{- /* What the operator may do in a namespace that it watches, and no more. */ -}}
{{- define "watchbill.rules" -}}
- apiGroups: [watchbill.dev]
  resources: [crews, heartbeats]
  verbs: [list, watch]
- apiGroups: [watchbill.dev]  # whether a crew is really gone, before what is stored of it is removed
  resources: [crews]
  verbs: [get]
- apiGroups: [watchbill.dev]
  resources: [crews/status, heartbeats/status]
  verbs: [patch]
- apiGroups: [watchbill.dev]  # to own what it makes, where the cluster asks for that (OwnerReferencesPermissionEnforcement)
  resources: [crews/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
- apiGroups: [events.k8s.io]  # what people see in `kubectl describe`
  resources: [events]
  verbs: [create, patch]
{{- if dig "readSecrets" true .Values.rbac }}{{- /* missing with --reuse-values of an earlier release */}}
- apiGroups: [""]  # only those that a crew refers to, and of these the metadata: Secrets are never listed
  resources: [secrets]
  verbs: [get]
{{- end }}
{{- if dig "readConfigMaps" true .Values.rbac }}
- apiGroups: [""]  # likewise
  resources: [configmaps]
  verbs: [get]
{{- end }}
{{- if .Values.redis.aclPerCrew }}
- apiGroups: [""]  # <crew>-redis, with the credential of the crew's own user of the store
  resources: [secrets]
  verbs: [get, create, patch]
{{- end }}
{{- end -}}
