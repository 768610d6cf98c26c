-- Which destination of a name counts.
-- uses nothing

-- Whether the crew has another destination of this name by now: `agent` is the name on the delivery queue, `of` the
-- destination that the caller means (circuits.key in Python); '': any. A mark behind the one that counts says that what
-- waits for it is not brought forward yet (release.lua). Those of submissions are never defined anew.
local function is_redefined(agent, of)
  local known = of ~= '' and redis.call('HGET', META, agent)
  return known and string.match(known, '^%S+') ~= of
end
