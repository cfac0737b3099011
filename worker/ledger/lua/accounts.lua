-- accounts() -> {{scope, fields ...} ...} of all accounts but the sessions', in any order; reads only
-- names set; a:<scope> hash
local rows = {}
for _, scope in ipairs(redis.call('SMEMBERS', NAMES)) do
  local row = fields_of(scope)
  table.insert(row, 1, scope)
  rows[#rows + 1] = row
end
return rows
