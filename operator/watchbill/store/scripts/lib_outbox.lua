-- What has ended and is to be delivered.
-- uses nothing

local OUTBOX_ALONG = 65536      -- bytes of a result that travel with its entry
local is_posted = false

-- Puts the end of a task or run into the outbox, from where it becomes deliveries. `deliver`: packed.pack_deliver in
-- Python, which begins with the outcomes that are wanted: s (success), f (failure); false: nothing is.
local function post(deliver, kind, id, state, result)
  if not deliver or not string.find(deliver, state == 'completed' and '^%l*s' or '^%l*f') then return end
  redis.call('XADD', OUTBOX, '*', 'kind', kind, 'id', id, 'state', state, 'deliver', deliver,
    'result', #result <= OUTBOX_ALONG and result or '')
  redis.call('HSETNX', META, 'delivers', '1')     -- whoever asks how much there is to do, asks for deliveries, too
  is_posted = true
end
